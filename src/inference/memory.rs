//! Refuses a model that cannot fit before any of its weights are read.

use std::path::Path;

use super::LoadError;
use super::gguf::Header;
use super::threads::ancestors;
use super::weights::tile_bytes;

/// What a word of the vocabulary takes while the tries of structured output are made of it, the first time that a request asks for it: 531 to
/// 572 bytes were measured (`tests/bench/run.py masks`). It is counted from the start: a request should not end the process.
const WORD_BYTES: u64 = 600;

/// Compares what weights and a vocabulary of `words` need with `limit` bytes (`None`: unlimited). Keys and values have a
/// budget of their own.
pub(super) fn check(header: &Header, words: usize, limit: Option<u64>) -> Result<(), LoadError> {
    let weights = header.tensors.values().map(tile_bytes).fold(0u64, u64::saturating_add);
    let vocabulary = (words as u64).saturating_mul(WORD_BYTES);
    match limit {
        Some(limit) if weights.saturating_add(vocabulary) > limit => {
            Err(LoadError::Memory { weights, vocabulary, limit })
        }
        _ => Ok(()),
    }
}

/// The bytes that this process may use at most: the smaller of its control group's limit and the machine's memory.
pub(super) fn limit() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let group = group_limit(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    [group, machine_memory(&read("/proc/meminfo"))].into_iter().flatten().min()
}

/// The smallest memory limit of the groups from this process's own up to the root, of version 2 or 1.
fn group_limit(root: &Path, membership: &str) -> Option<u64> {
    let groups = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let files = groups.flat_map(|(controllers, path)| match controllers {
        "" => ancestors(root, path).into_iter().map(|dir| dir.join("memory.max")).collect(),
        _ if controllers.split(',').any(|c| c == "memory") => {
            ancestors(&root.join("memory"), path).into_iter().map(|dir| dir.join("memory.limit_in_bytes")).collect()
        }
        _ => Vec::new(),
    });
    files.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// Total memory by the text of `/proc/meminfo`.
fn machine_memory(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    total.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::quantized::GgmlDType;

    use super::*;
    use crate::gguf::TensorInfo;

    #[test]
    fn a_model_that_cannot_fit_is_refused_with_the_numbers() {
        let info = TensorInfo { dtype: GgmlDType::F16, dims: vec![4096, 4096], offset: 0, bytes: 32 << 20 };
        let header = Header { tensors: BTreeMap::from([("token_embd.weight".into(), info)]), ..Header::default() };
        let error = check(&header, 0, Some(16 << 20)).unwrap_err().to_string();
        assert!(error.contains("weights need 17 MiB") && error.contains("use 16 MiB"), "{error}");
        assert!(check(&header, 0, Some(17 << 20)).is_ok() && check(&header, usize::MAX, None).is_ok());
    }

    #[test]
    fn the_words_of_the_vocabulary_count_too() {
        let header = Header::default();
        let error = check(&header, 262_144, Some(149 << 20)).unwrap_err().to_string();
        assert!(error.contains("vocabulary 150 MiB") && error.contains("use 149 MiB"), "{error}");
        assert!(check(&header, 262_144, Some(150 << 20)).is_ok());
    }

    #[test]
    fn the_smallest_limit_of_the_group_and_its_parents_counts() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("kubepods/pod1");
        std::fs::create_dir_all(&pod).unwrap();
        std::fs::write(root.path().join("kubepods/memory.max"), "4294967296\n").unwrap();
        std::fs::write(pod.join("memory.max"), "536870912\n").unwrap();
        assert_eq!(group_limit(root.path(), "0::/kubepods/pod1\n"), Some(512 << 20));
        std::fs::write(pod.join("memory.max"), "max\n").unwrap();
        assert_eq!(group_limit(root.path(), "0::/kubepods/pod1\n"), Some(4 << 30));
        assert_eq!(group_limit(root.path(), "nonsense\n"), None);
    }

    #[test]
    fn version_1_limits_and_the_machine_are_read() {
        let root = tempfile::tempdir().unwrap();
        let pod = root.path().join("memory/pod");
        std::fs::create_dir_all(&pod).unwrap();
        std::fs::write(pod.join("memory.limit_in_bytes"), "1048576\n").unwrap();
        assert_eq!(group_limit(root.path(), "3:cpu:/pod\n4:memory:/pod\n"), Some(1 << 20));
        assert_eq!(machine_memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(machine_memory(""), None);
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20));
    }
}
