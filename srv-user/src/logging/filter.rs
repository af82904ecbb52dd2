//! Which lines are logged: what `RUST_LOG` asks for.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};

/// The filter that `asked` describes, in EnvFilter's syntax, and what of it is not
/// understood.
///
/// A level alone, such as `debug`, holds for srv: the libraries (aya logs each relocation of a
/// program) and the program's own log, a line for each connection, go on from level info on. If
/// they are named, as in `debug,aya=trace,srv_ebpf=debug`, they get what is asked for.
pub(super) fn parse(asked: &str) -> (EnvFilter, Vec<String>) {
    let mut filter = at(EnvFilter::default(), LevelFilter::INFO);
    let mut named: Vec<Directive> = Vec::new();
    let mut not_understood = Vec::new();
    for part in asked
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match (part.parse::<LevelFilter>(), part.parse::<Directive>()) {
            (Ok(level), _) => filter = at(filter, level),
            (_, Ok(directive)) => named.push(directive),
            _ => not_understood.push(part.to_owned()),
        }
    }
    let filter = named.into_iter().fold(filter, EnvFilter::add_directive);
    (filter, not_understood)
}

/// srv from `level` on, and all others from info on, if that is less. A name stands for all that
/// begin with it. So `srv_ebpf` has to be named, because `srv` is.
fn at(filter: EnvFilter, level: LevelFilter) -> EnvFilter {
    let others = level.min(LevelFilter::INFO);
    let named = [format!("srv={level}"), format!("srv_ebpf={others}")];
    let named = named.map(|directive| directive.parse().expect("a target and a level"));
    let filter = filter.add_directive(others.into());
    named.into_iter().fold(filter, EnvFilter::add_directive)
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use tracing::Level;
    use tracing::subscriber::with_default;

    use super::*;

    /// Whether srv, the library aya and the program log at `DEBUG`, and aya at `INFO`.
    fn debugs(asked: &str) -> [bool; 4] {
        // Which levels are of interest to any subscriber is known to the whole process: of
        // two at once, one could see the other's.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (filter, _) = parse(asked);
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter).finish();
        with_default(subscriber, || {
            [
                tracing::enabled!(target: "srv::serve::master", Level::DEBUG),
                tracing::enabled!(target: "aya::bpf", Level::DEBUG),
                tracing::enabled!(target: "srv_ebpf", Level::DEBUG),
                tracing::enabled!(target: "aya::bpf", Level::INFO),
            ]
        })
    }

    #[test]
    fn a_level_is_for_srv_and_libraries_are_named() {
        assert_eq!(debugs(""), [false, false, false, true]);
        assert_eq!(debugs("debug"), [true, false, false, true]);
        assert_eq!(debugs("trace"), [true, false, false, true]);
        assert_eq!(debugs("warn"), [false, false, false, false]);
        assert_eq!(debugs("debug,aya=debug"), [true, true, false, true]);
        assert_eq!(debugs("aya=debug,debug"), [true, true, false, true]);
        assert_eq!(debugs("srv_ebpf=debug"), [false, false, true, true]);
        assert_eq!(debugs("srv=debug"), [true, false, false, true]);
    }

    #[test]
    fn what_is_not_understood_is_told_and_the_rest_holds() {
        let (_, not_understood) = parse("srv=loud, debug");
        assert_eq!(not_understood, ["srv=loud"]);
        assert_eq!(debugs("srv=loud, debug"), debugs("debug"));
    }
}
