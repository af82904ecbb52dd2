//! `bench fair`: how long small requests wait beside downloads that never block, at srv and
//! at nginx, one worker each. Twice: a file that is not in the page cache, on a disk that
//! a control group holds to 80 MB/s, and three downloads from the page cache.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use rustix::fs::{Advice, fadvise, major, makedev, minor};
use serde::Serialize;
use srv::measure::stats::{Spread, Summary};
use srv_tests::arguments::Arguments;
use srv_tests::arm::{self, Arm};
use srv_tests::nginx::{Content, Options};
use srv_tests::report::{Raw, print_table};
use srv_tests::usage::Tree;

const LARGE_BYTES: u64 = 600 << 20;
const DISK_BYTES_PER_SECOND: u64 = 80_000_000;
/// Keep-alive connections that ask for a small file.
const SMALL: usize = 8;
/// Between two requests of one of them.
const PAUSE: Duration = Duration::from_millis(5);

/// What the downloads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum Source {
    /// One, of a file that is read from the slow disk.
    Cold,
    /// Three, of a file in the page cache.
    Cached,
}

/// One arm in one round.
#[derive(Debug, Serialize)]
struct Sample {
    arm: &'static str,
    source: Source,
    round: usize,
    downloaded_bytes: u64,
    seconds: f64,
    latencies_ns: Vec<u64>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (rounds, lasts) = match arguments.quick {
        true => (1, Duration::from_secs(2)),
        false => (5, Duration::from_secs(6)),
    };
    let mut raw = Raw::create("fair")?;
    // Not in /tmp, which may be memory.
    let folder = srv_tests::server::profile_folder()?;
    let root = tempfile::tempdir_in(folder).context("create a folder to serve")?;
    let large = fill(root.path())?;
    let arms = arms(root.path());
    println!(
        "{SMALL} keep-alive connections ask for a small file, each {PAUSE:?} after its answer, beside \
         downloads of {} MB;\n1 worker each, {rounds} interleaved rounds of {lasts:?}, fresh \
         processes each\n",
        LARGE_BYTES / 1_000_000
    );
    for source in [Source::Cold, Source::Cached] {
        let disk = match source {
            Source::Cold => match SlowDisk::of(&large) {
                Ok(disk) => Some(disk),
                Err(error) => {
                    println!("cold: left out, the disk cannot be slowed down: {error:#}\n");
                    continue;
                }
            },
            Source::Cached => None,
        };
        let mut samples = Vec::new();
        for round in 0..rounds {
            for (_, arm) in arm::in_round(&arms, round) {
                let trial = Trial {
                    source,
                    round,
                    lasts,
                };
                let sample = trial.measure(arm, &large, disk.as_ref())?;
                raw.write(&sample)?;
                samples.push(sample);
            }
        }
        report(source, &arms, &samples);
    }
    raw.finish()
}

fn arms(root: &Path) -> Vec<Arm> {
    let options = Options {
        workers: 1,
        reuseport: false,
        deferred: false,
        tuning: String::new(),
        content: Content::Files(root.to_owned()),
    };
    let nginx = Arm::nginx("nginx", options);
    let srv = format!("--workers 1 --root {}", root.display());
    vec![
        Arm::srv("srv", &srv),
        nginx.as_control("nginx (control)"),
        nginx,
    ]
}

fn fill(root: &Path) -> Result<PathBuf> {
    std::fs::write(root.join("small"), [b'x'; 1024]).context("write the small file")?;
    let path = root.join("large");
    let mut large = File::create(&path).context("create the large file")?;
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..LARGE_BYTES >> 20 {
        large.write_all(&chunk).context("write the large file")?;
    }
    large.sync_all().context("write the large file")?;
    for path in [root, &path, &root.join("small")] {
        let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, open_to_all).context("let nginx's worker read")?;
    }
    Ok(path)
}

/// A control group whose processes read from one disk at [`DISK_BYTES_PER_SECOND`].
struct SlowDisk {
    folder: PathBuf,
}

impl SlowDisk {
    fn of(file: &Path) -> Result<Self> {
        let device = whole_disk(std::fs::metadata(file)?.dev())?;
        let name = format!("srv-bench-fair-{}", std::process::id());
        let first = Path::new("/sys/fs/cgroup/blkio");
        let (folder, limit, line) = if first.is_dir() {
            let line = format!("{device} {DISK_BYTES_PER_SECOND}");
            (first.join(name), "blkio.throttle.read_bps_device", line)
        } else {
            let root = Path::new("/sys/fs/cgroup");
            std::fs::write(root.join("cgroup.subtree_control"), "+io").context("enable io")?;
            let line = format!("{device} rbps={DISK_BYTES_PER_SECOND}");
            (root.join(name), "io.max", line)
        };
        std::fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
        let disk = Self { folder };
        let limit = disk.folder.join(limit);
        std::fs::write(&limit, &line).with_context(|| format!("write {line} to {limit:?}"))?;
        Ok(disk)
    }

    fn take(&self, tree: &Tree) -> Result<()> {
        for pid in tree.pids() {
            let path = self.folder.join("cgroup.procs");
            std::fs::write(&path, pid.to_string()).with_context(|| format!("write {path:?}"))?;
        }
        Ok(())
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // The processes have ended; the kernel may be about to notice.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A partition's limit is its disk's.
fn whole_disk(device: u64) -> Result<String> {
    let number = |device| format!("{}:{}", major(device), minor(device));
    let own = PathBuf::from(format!("/sys/dev/block/{}", number(device)));
    ensure!(own.is_dir(), "{} is on no disk", number(device));
    if !own.join("partition").exists() {
        return Ok(number(device));
    }
    let parent = std::fs::canonicalize(&own)?;
    let parent = parent.parent().context("a partition has a disk")?;
    let text = std::fs::read_to_string(parent.join("dev"))?;
    let (major, minor) = text
        .trim()
        .split_once(':')
        .context("read a disk's number")?;
    Ok(number(makedev(major.parse()?, minor.parse()?)))
}

struct Trial {
    source: Source,
    round: usize,
    lasts: Duration,
}

impl Trial {
    fn measure(&self, arm: &Arm, large: &Path, disk: Option<&SlowDisk>) -> Result<Sample> {
        let running = arm.start()?;
        if let Some(disk) = disk {
            disk.take(&Tree::of(running.pid())?)?;
        }
        let address = running.address();
        // The small file is warm, the large one is as the trial wants it.
        ask(&mut connect(address)?, "/small")?;
        set_cache(large, self.source)?;
        let downloads = match self.source {
            Source::Cold => 1,
            Source::Cached => 3,
        };
        let (over, downloaded) = (AtomicBool::new(false), AtomicU64::new(0));
        let begun = Instant::now();
        let latencies_ns = std::thread::scope(|scope| -> Result<Vec<u64>> {
            for _ in 0..downloads {
                scope.spawn(|| download(address, &over, &downloaded));
            }
            let small: Vec<_> = (0..SMALL)
                .map(|_| scope.spawn(|| ask_until(address, begun + self.lasts)))
                .collect();
            let asked: Result<Vec<_>> = small
                .into_iter()
                .map(|thread| thread.join().expect("it does not panic"))
                .collect();
            over.store(true, Ordering::Relaxed);
            Ok(asked?.concat())
        })?;
        Ok(Sample {
            arm: arm.name,
            source: self.source,
            round: self.round,
            downloaded_bytes: downloaded.into_inner(),
            seconds: begun.elapsed().as_secs_f64(),
            latencies_ns,
        })
    }
}

fn set_cache(large: &Path, source: Source) -> Result<()> {
    let mut file = File::open(large)?;
    match source {
        Source::Cold => fadvise(&file, 0, None, Advice::DontNeed)?,
        Source::Cached => drop(std::io::copy(&mut file, &mut std::io::sink())?),
    }
    Ok(())
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

/// Asks for a file on a keep-alive connection and reads the answer's end: its last byte is known.
fn ask(stream: &mut TcpStream, path: &str) -> Result<()> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !answer.ends_with(&[b'x'; 1024]) {
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "the server closed");
        answer.extend_from_slice(&chunk[..count]);
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "not a 200");
    Ok(())
}

/// Latencies, ns.
fn ask_until(address: SocketAddr, end: Instant) -> Result<Vec<u64>> {
    let mut stream = connect(address)?;
    let mut latencies_ns = Vec::new();
    while Instant::now() < end {
        let asked = Instant::now();
        ask(&mut stream, "/small").context("ask for the small file")?;
        latencies_ns.push(asked.elapsed().as_nanos() as u64);
        std::thread::sleep(PAUSE);
    }
    Ok(latencies_ns)
}

/// Reads as fast as it can, again and again.
fn download(address: SocketAddr, over: &AtomicBool, downloaded: &AtomicU64) -> Result<()> {
    let mut chunk = vec![0; 256 << 10];
    while !over.load(Ordering::Relaxed) {
        let mut stream = connect(address)?;
        write!(
            stream,
            "GET /large HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
        )?;
        while !over.load(Ordering::Relaxed) {
            let count = stream.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            downloaded.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
    Ok(())
}

fn report(source: Source, arms: &[Arm], samples: &[Sample]) {
    match source {
        Source::Cold => println!(
            "one download of a file that is not in the page cache, {} MB/s",
            DISK_BYTES_PER_SECOND / 1_000_000
        ),
        Source::Cached => println!("three downloads from the page cache"),
    }
    let row = |arm: &Arm| {
        let of_arm = || samples.iter().filter(|sample| sample.arm == arm.name);
        let summaries: Vec<_> = of_arm()
            .map(|sample| Summary::of(sample.latencies_ns.iter().copied()))
            .collect();
        let ms = |figure: fn(&Summary) -> u64| {
            let series: Vec<_> = summaries
                .iter()
                .map(|summary| figure(summary) as f64 / 1e6)
                .collect();
            let spread = Spread::of(&series);
            format!(
                "{:.2} ({:.2} to {:.2})",
                spread.median, spread.min, spread.max
            )
        };
        let megabytes_per_second: Vec<_> = of_arm()
            .map(|sample| sample.downloaded_bytes as f64 / 1e6 / sample.seconds)
            .collect();
        vec![
            arm.name.to_owned(),
            ms(|summary| summary.p50_ns),
            ms(|summary| summary.p99_ns),
            ms(|summary| summary.max_ns),
            format!("{:.0}", Spread::of(&megabytes_per_second).median),
        ]
    };
    let header = ["arm", "p50 ms", "p99 ms", "max ms", "downloads MB/s"];
    print_table(&header, arms.iter().map(row));
    println!();
}
