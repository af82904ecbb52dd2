//! The binary: parses the command line and calls what it names.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;
use srv::cgi;
use srv::cli::{Cli, Command, query};
use srv::control::Request;
use srv::doctor;
use srv::eprintln;
use srv::logging;
use srv::measure::ab;
use srv::measure::ab::args::{AbArgs, AbCommand};
use srv::measure::load;
use srv::measure::report;
use srv::measure::result::Comparison;
use srv::output;
use srv::output::json;
use srv::print;
use srv::run::keeper;
use srv::serve::access_log::writer;
use srv::serve::config;
use srv::serve::master;
use srv::serve::master::takeover::{self, Takeover};
use srv::serve::rehearsal;
use srv::serve::worker;
use srv::values::reported::Reported;
use srv_steer::program;

fn main() -> ExitCode {
    let code = run(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("srv: {error:#}");
        ExitCode::FAILURE
    });
    match output::failure() {
        // If the reader, such as `head`, has closed the pipe, it has what it wanted.
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("srv: write to standard output: {error}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(mut args) => {
            args.anchor()?;
            if args.print_config {
                print!("{}", config::settings(&args)?.to_toml()?);
                return Ok(ExitCode::SUCCESS);
            }
            let takeover = Takeover::inherited()?;
            let settings = config::settings(&args)?;
            logging::start(settings.log_json);
            master::run(settings, *args, takeover)?;
        }
        Command::Check(args) => args.run()?,
        Command::Worker => worker::run()?,
        Command::AccessLog => writer::run()?,
        Command::Rehearse(args) => rehearsal::perform(&args)?,
        Command::Succeed(args) => return Err(takeover::succeed(&args)),
        Command::Load(args) => return load::command::run(&args),
        Command::Status(asked) => return query::status(&asked),
        Command::Sockets(asked) => query::sockets(&asked)?,
        Command::Policy { name, server } => {
            query::change(&Request::Policy(Reported::Known(name)), &server)?;
        }
        Command::Reload(server) => query::change(&Request::Reload, &server)?,
        Command::Reopen(server) => query::change(&Request::Reopen, &server)?,
        Command::Upgrade(server) => query::change(&Request::Upgrade, &server)?,
        Command::Top(args) => args.run()?,
        Command::Observe(args) => return args.run(),
        Command::Attach(args) => return args.run(),
        Command::Detach(args) => args.run()?,
        Command::Run(args) => return Ok(args.run()),
        Command::Coordinate(args) => keeper::run(&args)?,
        Command::Admin(args) => args.run()?,
        Command::Cgi(args) => cgi::run(&args)?,
        Command::Ab(args) => return compare(*args),
        Command::Doctor { json, strict } => {
            let report = doctor::run(program::carries_program(), || {
                Ok(program::SelectProgram::load().map(drop)?)
            });
            match json {
                true => json::print(&report)?,
                false => print!("{report}"),
            }
            return Ok(report.exit_code(strict).into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn compare(args: AbArgs) -> anyhow::Result<ExitCode> {
    match args.other {
        Some(AbCommand::Compare { before, after }) => {
            ab::compare::compare(&Comparison::read(&before)?, &Comparison::read(&after)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(AbCommand::Report { folder }) => {
            report::regenerate(&folder)?;
            return Ok(ExitCode::SUCCESS);
        }
        None => {}
    }
    let simulate = args.simulate;
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let unnamed = || format!("ab-{}", now.replace([':', '-'], "")).into();
    let options = ab::Options {
        scenarios: args.scenarios,
        arms: args.arms,
        rounds: args.rounds,
        repeats: args.repeats,
        seed: args.seed,
        rate: args.rate,
        duration: args.duration.map(Into::into),
        workers: args.workers,
        rtt: args.rtt.map(Into::into),
        keep_alive: args.kept,
        spin: args.spin,
        unsteered: args.unsteered,
        overload: args.overload,
        out: args.out.unwrap_or_else(unnamed),
        command: typed(),
    };
    if simulate {
        return ab::simulated::run(&options);
    }
    ab::run(&options)
}

/// The command line as typed, as far as a shell can read it again.
fn typed() -> String {
    let words = std::env::args().skip(1);
    std::iter::once("srv".to_owned())
        .chain(
            words.map(|word| match word.contains([' ', '\'', '"', '$']) {
                true => format!("'{}'", word.replace('\'', "'\\''")),
                false => word,
            }),
        )
        .collect::<Vec<_>>()
        .join(" ")
}
