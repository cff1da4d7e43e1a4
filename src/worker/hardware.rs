//! What machine this is, for people and placement. Measured speed comes from the engine, not from here.

use std::{fs, path::Path};

/// The processor's name, or its architecture where the system does not tell.
pub(super) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    processor_in(&text).unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn processor_in(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().chars().take(128).collect())
}

/// Memory of this process's control group, or of the machine; 0 when unknown.
pub(super) fn memory_bytes() -> u64 {
    let limit = fs::read_to_string(Path::new("/sys/fs/cgroup/memory.max")).ok();
    let limit = limit.and_then(|text| text.trim().parse().ok());
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_in(&text));
    match (limit, machine) {
        (Some(limit), Some(machine)) => u64::min(limit, machine),
        (limit, machine) => limit.or(machine).unwrap_or_default(),
    }
}

fn total_in(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_memory_are_read_from_the_system() {
        assert_eq!(processor_in("a : b\nmodel name\t: Some CPU @ 2.50GHz\n"), Some("Some CPU @ 2.50GHz".into()));
        assert_eq!(total_in("MemTotal:       16384 kB\nMemFree: 1 kB\n"), Some(16_777_216));
        assert_eq!(total_in("nothing"), None);
    }
}
