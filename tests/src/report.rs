//! How a bench reports: lines for people on standard output, and the raw
//! figures as JSON lines under cargo's `target/bench/`, which is where every
//! printed figure can be computed again from.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::Serialize;
use srv::measure::stats::Ratio;

use crate::environment::Environment;

/// The raw figures of one bench run.
#[derive(Debug)]
pub struct Raw {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Raw {
    /// Prints the environment and opens `target/bench/NAME-TIME.jsonl`, whose
    /// first line is the environment.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn create(name: &str) -> Result<Self> {
        let environment = Environment::read();
        println!("bench {name}\n{environment}");
        let profile = crate::server::profile_folder()?;
        let folder = profile.parent().unwrap_or(&profile).join("bench");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let path = folder.join(format!("{name}-{seconds}.jsonl"));
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut raw = Self {
            path,
            file: BufWriter::new(file),
        };
        raw.write(&environment)?;
        Ok(raw)
    }

    /// Appends one line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.file, line)
            .and_then(|()| self.file.write_all(b"\n").map_err(serde_json::Error::io))
            .with_context(|| format!("write {}", self.path.display()))
    }

    /// Completes the file and says where it is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.file
            .flush()
            .with_context(|| format!("write {}", self.path.display()))?;
        println!("\nraw figures: {}", self.path.display());
        Ok(())
    }
}

pub use srv::output::table::print as print_table;

/// The ratio of two arms' figures, round by round; `None` if either arm did not run.
pub fn ratio(arm: &[f64], base: &[f64]) -> Option<Ratio> {
    (!arm.is_empty() && !base.is_empty()).then(|| Ratio::paired(arm, base))
}

/// How a target is reported.
pub fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "NOT met" }
}
