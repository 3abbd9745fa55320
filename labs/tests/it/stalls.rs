//! Says on standard error when a test's runtime did not run, and what its threads waited for: a stall of a
//! second looks like a cluster that does not respond.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_millis(50);
/// The longest gap that is not reported.
const TOLERATED: Duration = Duration::from_secs(1);

/// Watches the current runtime until it is dropped.
pub(crate) struct StallWatch {
    ended: Arc<AtomicBool>,
    machine: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl StallWatch {
    pub(crate) fn start() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let ticks = Arc::new(AtomicU64::new(0));
        let ticking = Arc::clone(&ticks);
        let task = tokio::spawn(async move {
            loop {
                ticking.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(INTERVAL).await;
            }
        });
        let machine = Arc::new(AtomicBool::new(false));
        let (stop, stalled) = (Arc::clone(&ended), Arc::clone(&machine));
        std::thread::spawn(move || watch(&ticks, &stop, &stalled));
        Self { ended, machine, task }
    }

    /// Returns true if not even a thread that only sleeps has run for a time.
    pub(crate) fn machine_stood_still(&self) -> bool {
        self.machine.load(Ordering::Relaxed)
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

fn watch(ticks: &AtomicU64, ended: &AtomicBool, machine: &AtomicBool) {
    let (mut seen, mut since) = (0, Instant::now());
    let mut reported = false;
    let mut last = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        std::thread::sleep(INTERVAL);
        let own = last.elapsed();
        last = Instant::now();
        if own > TOLERATED {
            machine.store(true, Ordering::Relaxed);
            eprintln!("stall: this machine did not run a thread that only sleeps for {own:?}");
        }
        let now = ticks.load(Ordering::Relaxed);
        if now != seen {
            if reported {
                eprintln!("stall: the runtime continued after {:?}", since.elapsed());
            }
            (seen, since, reported) = (now, Instant::now(), false);
        } else if !reported && since.elapsed() > TOLERATED {
            reported = true;
            eprintln!("stall: the runtime has not run for {:?}:\n{}", since.elapsed(), threads());
        }
    }
}

/// Returns what each thread of this process waits for, according to the kernel.
fn threads() -> String {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lines = tasks.map(|task| {
        let read = |file: &str| {
            let text = std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
            text.trim().replace('\n', " < ")
        };
        format!("  {} {} {} {}\n", read("comm"), read("wchan"), read("syscall"), read("stack"))
    });
    lines.collect()
}
