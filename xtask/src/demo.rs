//! `cargo xtask demo`: a server, a load and the live page, so that a newcomer sees what steering
//! does. Owns the stages and what is said about them. It ends by itself, and leaves nothing.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

use crate::{rights, step, workspace};
use anyhow::{Context, Result, bail};

/// Half a percent of the requests block their worker for 100 ms, the others for 1 ms.
const SERVICE: &str = "two:1000,100000,0.005";
const WORKERS: &str = "8";

/// One way of distributing connections.
struct Stage {
    policy: &'static str,
    /// The accept mode. It belongs to the start of a server, so that a change of it is a new start.
    accept: &'static str,
    look: &'static str,
}

const STAGES: [Stage; 3] = [
    Stage {
        policy: "hash",
        accept: "own",
        look: "the kernel's hash chooses. A connection waits behind a blocked worker while others \
               are idle: look at the dark fields in the queues, and at the wide band of accepts.",
    },
    Stage {
        policy: "least",
        accept: "own",
        look: "srv's program chooses the worker with the least outstanding work. Look at the \
               queues: they collapse. Few connections still come to a worker that blocks just then.",
    },
    Stage {
        policy: "least",
        accept: "ring",
        look: "in addition, an idle worker accepts what waits at a sibling (orange). The server was \
               started anew, since the accept mode belongs to the start: the page has followed.",
    },
];

/// What the user can choose.
#[derive(clap::Args)]
pub(crate) struct Choice {
    /// Port of the server on 127.0.0.1; the page has the next one
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..65535))]
    port: u16,
    /// How often all stages are shown
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Length of a stage, in seconds
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Requests per second
    #[arg(long, default_value_t = 2400)]
    rate: u32,
}

/// Shows the stages with a srv that is built already.
///
/// # Errors
/// If this machine does not let srv steer, or a program cannot be started.
pub(crate) fn run(choice: &Choice) -> Result<()> {
    let prefix = rights::prefix().context(
        "show steering: it needs root's rights, and there is neither root nor sudo without a \
         password; to mend it: sudo -v, then repeat",
    )?;
    println!(
        "The page: http://127.0.0.1:{} — open it now. {} requests/s; of 200 requests, one blocks its \
         worker for 100 ms, and each other one for 1 ms.\n",
        choice.port + 1,
        choice.rate
    );
    let mut server: Option<Server> = None;
    for stage in STAGES
        .iter()
        .cycle()
        .take(STAGES.len() * choice.rounds as usize)
    {
        let running = match server
            .take()
            .filter(|running| running.accept == stage.accept)
        {
            Some(running) => {
                running.switch(stage.policy)?;
                running
            }
            None => Server::start(prefix, choice.port, stage)?,
        };
        println!(
            "{} with accept mode {}: {}",
            stage.policy, stage.accept, stage.look
        );
        measure(choice)?;
        server = Some(running);
    }
    Ok(())
}

/// A running server. It is stopped when this is dropped.
struct Server {
    prefix: &'static [&'static str],
    child: Child,
    listen: String,
    accept: &'static str,
}

impl Server {
    /// Starts a server, and waits until it serves.
    fn start(prefix: &'static [&'static str], port: u16, stage: &Stage) -> Result<Self> {
        let listen = format!("127.0.0.1:{port}");
        let admin = format!("127.0.0.1:{}", port + 1);
        // If this process is killed, the server must not stay.
        let mut command = prefixed(prefix, "setpriv");
        command
            .args(["--pdeathsig", "TERM"])
            .arg(workspace::srv(true)?);
        command.args([
            "serve",
            "--synthetic",
            "--workers",
            WORKERS,
            "--listen",
            &listen,
        ]);
        command.args([
            "--admin",
            &admin,
            "--policy",
            stage.policy,
            "--accept",
            stage.accept,
        ]);
        let mut child = command
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start srv serve")?;
        let said = child.stderr.take().context("read what srv serve says")?;
        let server = Self {
            prefix,
            child,
            listen,
            accept: stage.accept,
        };
        server.wait_until_it_serves(BufReader::new(said))?;
        Ok(server)
    }

    /// Reads the log until the workers are ready. After that, what the server says is let go.
    fn wait_until_it_serves(
        &self,
        log: BufReader<impl std::io::Read + Send + 'static>,
    ) -> Result<()> {
        let mut lines = log.lines();
        let mut said = String::new();
        for line in lines.by_ref().map_while(Result::ok) {
            let is_ready = line.contains("listening on");
            said.push_str(&line);
            said.push('\n');
            if is_ready {
                thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
        }
        bail!(
            "start srv serve on {}: it ended, and said:\n{said}",
            self.listen
        )
    }

    fn switch(&self, policy: &str) -> Result<()> {
        let srv = workspace::srv(true)?;
        let mut command = prefixed(self.prefix, srv.to_str().context("name of srv's file")?);
        step::ask(command.args(["policy", policy, "--listen", &self.listen]))?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // sudo passes it on.
        let mut kill = prefixed(self.prefix, "kill");
        let _ = kill.args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn prefixed(prefix: &[&str], program: &str) -> Command {
    let mut words = prefix.iter().chain([&program]);
    let mut command = Command::new(words.next().unwrap_or(&program));
    command.args(words);
    command
}

/// Sends requests for one stage, and prints what `srv load` says of the short ones.
fn measure(choice: &Choice) -> Result<()> {
    let url = format!("http://127.0.0.1:{}/work?sleep_us={{us}}", choice.port);
    let mut load = Command::new(workspace::srv(true)?);
    load.args([
        "load",
        "--service",
        SERVICE,
        "--rate",
        &choice.rate.to_string(),
    ]);
    load.args(["--duration", &format!("{}s", choice.seconds), &url]);
    let report = step::ask(&mut load)?;
    let is_shown = |line: &&str| {
        ["latency ", "short "]
            .iter()
            .any(|word| line.starts_with(word))
    };
    for line in report.lines().filter(is_shown) {
        println!("    {line}");
    }
    println!();
    Ok(())
}
