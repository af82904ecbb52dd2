//! How much CPU time the cgroups above a process allow it, in both versions of cgroups.

use std::fs;
use std::path::{Path, PathBuf};

/// The mount point of the cgroup v2 hierarchy, from the text of `/proc/self/mounts`.
pub(crate) fn v2_mount(mounts: &str) -> Option<PathBuf> {
    mount(mounts, |kind, _| kind == "cgroup2")
}

/// CPU time per time: the lowest quota of the cgroups from the cgroup of a process up to the root.
/// `cgroups` is the text of its `/proc/PID/cgroup`. `None` if there is no quota.
pub(crate) fn cpu_quota(mounts: &str, cgroups: &str) -> Option<f64> {
    let v2 = || {
        let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
        tightest(&v2_mount(mounts)?, path, v2_quota)
    };
    let v1 = || {
        let has_cpu = |options: &str| options.split(',').any(|option| option == "cpu");
        let mount = mount(mounts, |kind, options| kind == "cgroup" && has_cpu(options))?;
        let path = cgroups.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            has_cpu(controllers).then_some(path)
        })?;
        tightest(&mount, path, v1_quota)
    };
    // A "hybrid" system mounts both versions. The controller is in one of them.
    [v2(), v1()].into_iter().flatten().reduce(f64::min)
}

fn mount(mounts: &str, is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, at, kind, options, ..] = fields[..] else {
            return None;
        };
        is_it(kind, options).then(|| at.into())
    })
}

fn tightest(mount: &Path, path: &str, quota: fn(&Path) -> Option<f64>) -> Option<f64> {
    let own = mount.join(path.trim_start_matches('/'));
    let upwards = own
        .ancestors()
        .take_while(|folder| folder.starts_with(mount));
    upwards.filter_map(quota).reduce(f64::min)
}

/// The quota in `cpu.max`, which has a quota and a period, or `max` and a period.
fn v2_quota(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

/// The quota in `cpu.cfs_quota_us` (-1 if there is none) and `cpu.cfs_period_us`.
fn v1_quota(folder: &Path) -> Option<f64> {
    let number = |name: &str| -> Option<f64> {
        let text = fs::read_to_string(folder.join(name)).ok()?;
        text.trim().parse().ok()
    };
    let quota_us = number("cpu.cfs_quota_us")?;
    let period_us = number("cpu.cfs_period_us")?;
    (quota_us > 0.0).then_some(quota_us / period_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found() {
        let mounts = "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(v2_mount(mounts), Some("/sys/fs/cgroup".into()));
        assert_eq!(v2_mount("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn the_tightest_quota_on_the_way_up_counts() {
        let mount = tempfile::tempdir().unwrap();
        let inner = mount.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let mounts = format!("cgroup2 {} cgroup2 rw 0 0\n", mount.path().display());
        let quota = |cgroups: &str| cpu_quota(&mounts, cgroups);
        fs::write(inner.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota("3:cpu:/x\n0::/a/b\n"), None);
        fs::write(mount.path().join("a/cpu.max"), "150000 100000\n").unwrap();
        fs::write(inner.join("cpu.max"), "400000 100000\n").unwrap();
        assert_eq!(quota("3:cpu:/x\n0::/a/b\n"), Some(1.5));
        assert_eq!(quota("3:cpu:/x\n"), None);
    }

    #[test]
    fn a_quota_of_cgroup_v1_counts() {
        let mount = tempfile::tempdir().unwrap();
        let inner = mount.path().join("docker/1");
        fs::create_dir_all(&inner).unwrap();
        let mounts = format!(
            "cgroup /elsewhere cgroup rw,cpuset 0 0\ncgroup {} cgroup rw,nosuid,cpu,cpuacct 0 0\n",
            mount.path().display()
        );
        let write = |folder: &Path, quota: &str| {
            fs::write(folder.join("cpu.cfs_quota_us"), quota).unwrap();
            fs::write(folder.join("cpu.cfs_period_us"), "100000\n").unwrap();
        };
        let quota = |cgroups: &str| cpu_quota(&mounts, cgroups);
        let own = "5:cpuset:/docker/1\n4:cpu,cpuacct:/docker/1\n";
        write(&inner, "-1\n");
        assert_eq!(quota(own), None);
        write(&inner, "50000\n");
        assert_eq!(quota(own), Some(0.5));
        // In a container the mount is the cgroup of the container, although the path is another.
        write(mount.path(), "150000\n");
        assert_eq!(quota("4:cpu,cpuacct:/kubepods/pod1\n"), Some(1.5));
    }
}
