//! The processor's load and the memory, as the system tells them under `/proc`.

use std::fs;
use std::sync::{Mutex, PoisonError};

/// What a scrape shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MachineLoad {
    /// The part of the processors' time that was busy since the last scrape, from 0 to 1.
    pub(crate) cpu_utilization: f64,
    /// Bytes.
    pub(crate) memory_total: u64,
    /// Bytes.
    pub(crate) memory_used: u64,
}

/// Remembers the processors' times between scrapes.
#[derive(Debug, Default)]
pub(crate) struct Machine(Mutex<CpuTimes>);

/// Ticks since the system started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    total: u64,
}

impl Machine {
    /// The load now; `None` where the system does not tell.
    pub(crate) fn load(&self) -> Option<MachineLoad> {
        let times = CpuTimes::parse(&fs::read_to_string("/proc/stat").ok()?)?;
        let (memory_total, memory_used) = parse_memory(&fs::read_to_string("/proc/meminfo").ok()?)?;
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu_utilization = times.utilization_since(&last);
        *last = times;
        Some(MachineLoad { cpu_utilization, memory_total, memory_used })
    }
}

impl CpuTimes {
    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal; see proc(5).
    fn parse(stat: &str) -> Option<CpuTimes> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> =
            fields.split_ascii_whitespace().take(8).map_while(|ticks| ticks.parse().ok()).collect();
        let [_, _, _, idle, iowait, ..] = ticks[..] else { return None };
        let total = ticks.iter().sum::<u64>();
        Some(CpuTimes { busy: total - idle - iowait, total })
    }

    fn utilization_since(&self, last: &CpuTimes) -> f64 {
        let total = self.total.saturating_sub(last.total);
        let busy = self.busy.saturating_sub(last.busy);
        if total == 0 { 0.0 } else { (busy as f64 / total as f64).min(1.0) }
    }
}

/// The whole memory, and what is not available of it, in bytes.
fn parse_memory(meminfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        kilobytes.checked_mul(1024)
    };
    let total = field("MemTotal:")?;
    Some((total, total.saturating_sub(field("MemAvailable:")?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files() {
        let first = CpuTimes::parse("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!(first, CpuTimes { busy: 20, total: 100 });
        let second = CpuTimes { busy: 65, total: 160 };
        assert_eq!(second.utilization_since(&first), 0.75);
        assert_eq!(second.utilization_since(&second), 0.0);
        assert_eq!(CpuTimes::parse("cpu 1 2"), None);
        let memory = "MemTotal:       1000 kB\nMemFree: 5 kB\nMemAvailable:    400 kB\n";
        assert_eq!(parse_memory(memory), Some((1_024_000, 614_400)));
        assert_eq!(parse_memory("MemTotal: x kB"), None);
    }
}
