//! The scripts of a route that were found not long ago. A script is looked up at most once a second, as
//! files are, so that most requests need no system call for it. What was not found is not remembered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

/// For how long a script that was found counts as there.
const FOR: Duration = Duration::from_secs(1);

/// How many are remembered. More are forgotten together.
const SCRIPTS_MAX: usize = 512;

/// Names of scripts, and until when each counts as there.
#[derive(Debug, Default)]
pub(in crate::serve::router) struct KnownScripts(RefCell<HashMap<Box<[u8]>, Duration>>);

impl KnownScripts {
    /// Whether there is a script of this name at `now`, by what `find` says or has said.
    pub(super) fn has(&self, name: &[u8], now: Duration, find: impl FnOnce() -> bool) -> bool {
        let mut known = self.0.borrow_mut();
        if known.get(name).is_some_and(|until| now < *until) {
            return true;
        }
        let is_there = find();
        if !is_there {
            known.remove(name);
        } else if let Some(until) = known.get_mut(name) {
            *until = now + FOR;
        } else {
            if known.len() >= SCRIPTS_MAX {
                known.clear();
            }
            known.insert(name.into(), now + FOR);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_looked_up_once_a_second_and_what_is_none_each_time() {
        let known = KnownScripts::default();
        let looked = |is_there: bool, now_ms: u64| {
            let mut looked = false;
            let found = known.has(b"/a.php", Duration::from_millis(now_ms), || {
                looked = true;
                is_there
            });
            (found, looked)
        };
        assert_eq!(looked(false, 0), (false, true));
        assert_eq!(looked(true, 1), (true, true));
        assert_eq!(looked(false, 1000), (true, false));
        assert_eq!(looked(true, 1001), (true, true));
        assert_eq!(looked(false, 2001), (false, true));
        assert_eq!(looked(false, 2002), (false, true));
    }

    #[test]
    fn so_many_and_no_more_are_remembered() {
        let known = KnownScripts::default();
        for nth in 0..SCRIPTS_MAX * 2 {
            let name = format!("/{nth}.php");
            assert!(known.has(name.as_bytes(), Duration::ZERO, || true));
            assert!(known.0.borrow().len() <= SCRIPTS_MAX);
        }
    }
}
