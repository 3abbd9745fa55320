//! `--step`: a run that shows each step and waits for Enter before it acts.

use crate::wrap::{columns, wrap_lines};
use std::io::Write as _;
use std::sync::OnceLock;
use tokio::sync::{Mutex, mpsc};

/// The reader of lines that let a run go on. End of input lets it run to its end.
#[derive(Debug, Default)]
pub(crate) struct Stepping {
    lines: OnceLock<Mutex<mpsc::Receiver<()>>>,
}

impl Stepping {
    /// Prints the step and waits for a line.
    pub(crate) async fn show(&self, step: &str) {
        let step = wrap_lines(step, 2, columns());
        _ = write!(std::io::stderr(), "\n{step}  Press Enter to go on, Ctrl-C to stop. ");
        let lines = self.lines.get_or_init(|| Mutex::new(read_lines()));
        if lines.lock().await.recv().await.is_none() {
            _ = writeln!(std::io::stderr());
        }
    }
}

/// Reads on a thread of its own, because a pending read of the runtime would keep the process from exiting.
fn read_lines() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    receiver
}
