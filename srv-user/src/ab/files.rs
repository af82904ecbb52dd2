//! The folder that a comparison leaves: raw samples, `.hgrm` files,
//! `result.json` and `report.html`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::load::Run;
use crate::load::files::{distribution, records};
use crate::report;
use crate::result::{Comparison, RESULT};

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
        let samples = path.join("samples");
        fs::create_dir_all(&samples).with_context(|| format!("create {}", samples.display()))?;
        ensure!(
            !path.join(RESULT).exists(),
            "{} has a {RESULT} already: name another folder with --out",
            path.display()
        );
        Ok(Self { path })
    }

    /// Writes one round's raw records and its distribution.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write_samples(&self, arm: &str, round: usize, run: &Run) -> Result<()> {
        let stem = format!("{}-{}", arm.replace([' ', '+'], "-"), round + 1);
        let samples = self.path.join("samples");
        write(&samples.join(format!("{stem}.csv")), |file| {
            records(file, &run.records)
        })?;
        write(&samples.join(format!("{stem}.hgrm")), |file| {
            distribution(file, run)
        })
    }

    /// Writes `result.json`, then the report that is made from it.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write_report(&self, comparison: &Comparison) -> Result<()> {
        let path = self.path.join(RESULT);
        write(&path, |file| {
            serde_json::to_writer_pretty(file, comparison).map_err(io::Error::from)
        })?;
        report::write(&self.path, comparison)
    }

    /// For people: what is where.
    pub fn about(&self) -> String {
        format!("{}: report.html, {RESULT}, samples/", self.path.display())
    }
}

fn write(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut file = BufWriter::new(file);
    fill(&mut file)
        .and_then(|()| file.flush())
        .with_context(|| format!("write {}", path.display()))
}
