//! The folder that a comparison leaves: raw samples, `.hgrm` files,
//! `result.json` and `report.html`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::arm::Arm;
use crate::measure::load::Run;
use crate::measure::load::files::{distribution, records};
use crate::measure::report;
use crate::measure::result::{Comparison, RESULT, name_in_file};

/// Reserved for the result, bytes: if samples fill the disk, there is still room for it. The
/// result and the report of a default run are 0.8 MB.
pub const RESERVE_BYTES: usize = 4 << 20;
const RESERVE: &str = "reserve";
const SAMPLES: &str = "samples";

/// Where a comparison goes.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Creates it, and what leads to it.
    ///
    /// # Errors
    /// It cannot be, or has another comparison in it already.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        ensure!(
            !path.join(RESULT).exists(),
            "{} has a {RESULT} already: name another folder with --out",
            path.display()
        );
        let reserve = path.join(RESERVE);
        let reserved = fs::write(&reserve, vec![0; RESERVE_BYTES]);
        if let Err(error) = reserved {
            remove(&reserve);
            return Err(error).with_context(|| full(&reserve));
        }
        Ok(Self { path })
    }

    /// Writes one round's raw records and its distribution, both or neither.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write_samples(&self, arm: &Arm, round: usize, run: &Run) -> Result<()> {
        let stem = format!(
            "{}-{}",
            name_in_file(&arm.name, arm.role).replace([' ', '+'], "-"),
            round + 1
        );
        let samples = self.path.join(SAMPLES);
        fs::create_dir_all(&samples).with_context(|| full(&samples))?;
        let [csv, hgrm] = ["csv", "hgrm"].map(|kind| samples.join(format!("{stem}.{kind}")));
        let written = write(&csv, |file| records(file, &run.records))
            .and_then(|()| write(&hgrm, |file| distribution(file, run)));
        if written.is_err() {
            remove(&csv);
            remove(&hgrm);
        }
        written
    }

    /// Writes `result.json`, then the report that is made from it.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write_report(&self, comparison: &Comparison) -> Result<()> {
        remove(&self.path.join(RESERVE));
        let path = self.path.join(RESULT);
        write(&path, |file| {
            serde_json::to_writer_pretty(file, comparison).map_err(io::Error::from)
        })?;
        report::write(&self.path, comparison)
    }

    /// For people: what is where.
    pub fn about(&self) -> String {
        let samples = match self.path.join(SAMPLES).exists() {
            true => ", samples/",
            false => "",
        };
        format!("{}: report.html, {RESULT}{samples}", self.path.display())
    }
}

fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    fill(&mut file)
        .and_then(|()| file.flush())
        .with_context(|| full(path))
}

fn full(path: &Path) -> String {
    format!(
        "write {} (make room, or name another folder with --out)",
        path.display()
    )
}

/// Makes room. If a file cannot be removed, that shows when the next is written.
fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}
