//! Small files in memory, by request path; if there are several sites, by site and path. Their total
//! size is bounded, and the cache removes the least recently used first. It accesses no file itself:
//! its caller says which version a file has now.

use std::time::Duration;

use lru::LruCache;

use crate::serve::budget::Budget;
use crate::serve::site::docroot::Stamp;
use crate::serve::site::representation::Representation;

/// The largest file that the cache keeps. srv reads larger ones from disk (mostly from the kernel's
/// page cache) each time.
pub(super) const LARGEST_FILE_BYTES: u64 = 64 << 10;
/// How long srv serves a file from the cache before it checks the file's version again.
pub(super) const FRESH_FOR: Duration = Duration::from_secs(1);

/// Compressing has a quarter of the worker's time, and half a second, ns, if much comes together.
const COMPRESSING: Budget = Budget::new(4, 500_000_000);

const CAPACITY_BYTES: usize = 16 << 20;
/// The memory of an entry beside path and content: headers, map and allocations. It is an estimate,
/// so that empty files count, too.
const ENTRY_BYTES: usize = 1024;

/// Files by request path.
#[derive(Debug)]
pub(in crate::serve) struct FileCache {
    entries: LruCache<Box<str>, Entry>,
    used_bytes: usize,
    /// The time for compressing what the cache is to keep.
    pub(super) compressing: Budget,
}

#[derive(Debug)]
struct Entry {
    representation: Representation,
    stamp: Stamp,
    /// Whether the file was old enough when srv read it that its stamp proves its version.
    settled: bool,
    /// When srv last found the stamp unchanged.
    checked: Duration,
}

impl Default for FileCache {
    fn default() -> Self {
        Self {
            entries: LruCache::unbounded(),
            used_bytes: 0,
            compressing: COMPRESSING,
        }
    }
}

impl FileCache {
    /// The file at `path`, if srv checked its version less than [`FRESH_FOR`] before `now`.
    pub(super) fn fresh(&mut self, path: &str, now: Duration) -> Option<&Representation> {
        let entry = self.entries.get(path)?;
        let is_fresh = now.saturating_sub(entry.checked) < FRESH_FOR;
        is_fresh.then_some(&entry.representation)
    }

    /// The file at `path`, if its `stamp` at `now` says that it is still the same version.
    pub(super) fn renewed(
        &mut self,
        path: &str,
        stamp: &Stamp,
        now: Duration,
    ) -> Option<&Representation> {
        let entry = self.entries.get_mut(path)?;
        if !entry.settled || entry.stamp != *stamp {
            return None;
        }
        entry.checked = now;
        Some(&entry.representation)
    }

    /// Keeps a file that was read at `now`. It replaces what the cache has for `path`.
    pub(super) fn insert(
        &mut self,
        path: &str,
        representation: Representation,
        stamp: Stamp,
        settled: bool,
        now: Duration,
    ) {
        self.remove(path);
        let entry = Entry {
            representation,
            stamp,
            settled,
            checked: now,
        };
        self.used_bytes += entry.cost(path);
        self.entries.put(path.into(), entry);
        while self.used_bytes > CAPACITY_BYTES {
            let Some((path, oldest)) = self.entries.pop_lru() else {
                break;
            };
            self.used_bytes -= oldest.cost(&path);
        }
    }

    /// Removes what the cache has for `path`.
    pub(super) fn remove(&mut self, path: &str) {
        if let Some(entry) = self.entries.pop(path) {
            self.used_bytes -= entry.cost(path);
        }
    }
}

impl Entry {
    fn cost(&self, path: &str) -> usize {
        let content_bytes = self.representation.memory_bytes().unwrap_or(0);
        ENTRY_BYTES + path.len() + content_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    use crate::serve::config::Root;
    use crate::serve::site::conditional::Validators;
    use crate::serve::site::content_type;
    use crate::serve::site::docroot::{DocRoot, Found};
    use crate::serve::site::representation::Content;

    /// The stamp of a new file of so many bytes.
    fn stamp(size_bytes: u64) -> Stamp {
        let root = tempfile::TempDir::new().unwrap();
        let file = std::fs::File::create(root.path().join("f")).unwrap();
        file.set_len(size_bytes).unwrap();
        let root = Root::find(root.path()).unwrap();
        match DocRoot::new(&root).unwrap().open(b"f").unwrap() {
            Found::File(_, stamp) => stamp,
            Found::Folder => panic!("a regular file was created"),
        }
    }

    fn insert(cache: &mut FileCache, path: &str, stamp: Stamp, settled: bool) {
        let content = vec![b'x'; stamp.size_bytes() as usize];
        let content = Content::Memory(Bytes::from(content));
        let validators = Validators {
            etag: None,
            modified_s: None,
        };
        let representation = Representation::new(content_type::PLAIN, validators, content);
        cache.insert(path, representation, stamp, settled, Duration::ZERO);
    }

    #[test]
    fn entries_are_fresh_for_a_second() {
        let mut cache = FileCache::default();
        let stamp = stamp(1);
        insert(&mut cache, "/f", stamp, true);
        assert!(cache.fresh("/f", Duration::from_millis(999)).is_some());
        assert!(cache.fresh("/f", FRESH_FOR).is_none());
        assert!(cache.renewed("/f", &stamp, FRESH_FOR).is_some());
        assert!(cache.fresh("/f", Duration::from_millis(1999)).is_some());
        assert!(cache.fresh("/g", Duration::ZERO).is_none());
    }

    #[test]
    fn other_versions_and_unsettled_ones_are_not_renewed() {
        let mut cache = FileCache::default();
        let [first, second] = [stamp(1), stamp(2)];
        insert(&mut cache, "/f", first, true);
        assert!(cache.renewed("/f", &second, FRESH_FOR).is_none());
        insert(&mut cache, "/f", first, false);
        assert!(cache.renewed("/f", &first, FRESH_FOR).is_none());
    }

    #[test]
    fn memory_is_bounded_and_the_least_used_goes_first() {
        for size_bytes in [0, LARGEST_FILE_BYTES] {
            let mut cache = FileCache::default();
            let stamp = stamp(size_bytes);
            insert(&mut cache, "/often", stamp, true);
            for n in 0..20_000 {
                insert(&mut cache, &format!("/{n}"), stamp, true);
                assert!(cache.fresh("/often", Duration::ZERO).is_some());
                assert!(cache.used_bytes <= CAPACITY_BYTES);
            }
            assert!(cache.fresh("/0", Duration::ZERO).is_none());
            let cost = cache.entries.iter().map(|(path, entry)| entry.cost(path));
            assert_eq!(cost.sum::<usize>(), cache.used_bytes);
            assert!(cache.used_bytes > CAPACITY_BYTES / 2);
        }
    }

    #[test]
    fn replacing_and_removing_give_room_back() {
        let mut cache = FileCache::default();
        insert(&mut cache, "/f", stamp(100), true);
        insert(&mut cache, "/f", stamp(200), true);
        assert_eq!(cache.used_bytes, ENTRY_BYTES + 2 + 200);
        cache.remove("/f");
        cache.remove("/f");
        assert_eq!(cache.used_bytes, 0);
        assert!(cache.entries.is_empty());
    }
}
