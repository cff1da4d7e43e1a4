//! How many compute threads this process may use.
//!
//! Linux tells a container's CPU limit only through its control group: a pod limited to two cores on a machine of 64 still
//! sees 64. Computing with more threads than the quota allows makes every parallel region wait for a throttled thread.

use std::path::{Path, PathBuf};

/// The number of compute threads: the control group's CPU quota (version 2 or 1) rounded down, but at least 1 and at most
/// the number of CPUs that this process may run on.
///
/// The engine sizes its own pool with it (`EngineConfig::threads`); it uses neither rayon nor candle's pool. A binary
/// that also uses those should set `RAYON_NUM_THREADS` and `CANDLE_NUM_THREADS` to the same number in its container
/// spec, because both are read once at first use.
pub fn threads_from_cgroup() -> usize {
    let available = std::thread::available_parallelism().map_or(1, usize::from);
    let membership = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let quota = cpu_quota(Path::new("/sys/fs/cgroup"), &membership);
    quota.map_or(available, |cores| (cores.floor() as usize).clamp(1, available))
}

/// The smallest CPU quota, in cores, of the groups from this process's own up to the root.
/// `membership` is the text of `/proc/self/cgroup`.
fn cpu_quota(root: &Path, membership: &str) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let quotas: Vec<f64> = if controllers.is_empty() {
            ancestors(root, path).iter().filter_map(|dir| quota_v2(dir)).collect()
        } else if controllers.split(',').any(|c| c == "cpu") {
            ["cpu", "cpu,cpuacct"]
                .iter()
                .flat_map(|c| ancestors(&root.join(c), path))
                .filter_map(|d| quota_v1(&d))
                .collect()
        } else {
            continue;
        };
        for quota in quotas {
            smallest = Some(smallest.map_or(quota, |s| s.min(quota)));
        }
    }
    smallest
}

/// The group's directory and its parents. In a container the group is usually mounted as the root itself, so a path that
/// does not exist below the root is simply skipped.
pub(super) fn ancestors(root: &Path, path: &str) -> Vec<PathBuf> {
    let mut directories = vec![root.to_path_buf()];
    let mut current = root.to_path_buf();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != "..") {
        current.push(part);
        directories.push(current.clone());
    }
    directories
}

fn quota_v2(directory: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(directory.join("cpu.max")).ok()?;
    let mut fields = text.split_whitespace();
    ratio(fields.next()?.parse().ok()?, fields.next()?.parse().ok()?)
}

fn quota_v1(directory: &Path) -> Option<f64> {
    let number = |name: &str| std::fs::read_to_string(directory.join(name)).ok()?.trim().parse::<f64>().ok();
    ratio(number("cpu.cfs_quota_us")?, number("cpu.cfs_period_us")?)
}

fn ratio(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn the_smallest_quota_of_the_group_and_its_parents_counts() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "cpu.max", "max 100000\n");
        write(&root.path().join("kubepods/pod1"), "cpu.max", "150000 100000\n");
        write(&root.path().join("kubepods/pod1/c"), "cpu.max", "400000 100000\n");
        assert_eq!(cpu_quota(root.path(), "0::/kubepods/pod1/c\n"), Some(1.5));
    }

    #[test]
    fn version_1_quotas_are_read() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("cpu,cpuacct/pod");
        write(&dir, "cpu.cfs_quota_us", "200000\n");
        write(&dir, "cpu.cfs_period_us", "100000\n");
        assert_eq!(cpu_quota(root.path(), "4:memory:/x\n3:cpu,cpuacct:/pod\n"), Some(2.0));
    }

    #[test]
    fn no_quota_is_no_limit() {
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("cpu"), "cpu.cfs_quota_us", "-1\n");
        write(&root.path().join("cpu"), "cpu.cfs_period_us", "100000\n");
        assert_eq!(cpu_quota(root.path(), "1:cpu:/\n0::/\n"), None);
        assert_eq!(cpu_quota(root.path(), "nonsense\n"), None);
        assert!(threads_from_cgroup() >= 1);
    }
}
