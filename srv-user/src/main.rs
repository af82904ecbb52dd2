//! The binary: parses the command line and calls what it names.

use std::process::ExitCode;

use clap::Parser;
use srv::cli::{Cli, Command, Query, Server};
use srv::control::{Reply, Request, ask};
use srv::{config, doctor, load, log, master, steer, view, worker};

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("srv: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => {
            let settings = config::settings(&args)?;
            log::start(settings.log_json);
            master::run(settings)?;
        }
        Command::Worker => worker::run()?,
        Command::Load(args) => return load::command::run(&args),
        Command::Status(Query { json, server }) => query(json, &server, &Request::Status)?,
        Command::Sockets(Query { json, server }) => query(json, &server, &Request::Sockets)?,
        Command::Policy { name, server } => {
            let request = Request::Policy(name.0.name().to_string());
            query(false, &server, &request)?;
        }
        Command::Doctor { json } => {
            let report = doctor::run(steer::carries_program(), || {
                steer::Steering::load().map(drop)
            });
            match json {
                true => println!("{}", serde_json::to_string_pretty(&report)?),
                false => print!("{report}"),
            }
            return Ok(report.exit_code().into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn query(json: bool, server: &Server, request: &Request) -> anyhow::Result<()> {
    let text = match ask(server.control.as_deref(), request)? {
        Reply::Status(status) if json => serde_json::to_string_pretty(&status)?,
        Reply::Sockets(sockets) if json => serde_json::to_string_pretty(&sockets)?,
        Reply::Status(status) => view::status(&status),
        Reply::Sockets(sockets) => view::sockets(&sockets),
        Reply::Done(text) | Reply::Refused(text) => text,
    };
    println!("{}", text.trim_end());
    Ok(())
}
