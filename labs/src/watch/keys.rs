//! Keys of a terminal, one at a time, without Enter. The terminal is restored when this is dropped.

use rustix::fs::{FileType, fstat};
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::Read as _;
use tokio::sync::mpsc;

/// Starts the sequence of a key such as an arrow, or is the key Esc.
pub(super) const ESCAPE: u8 = 0x1b;

/// A terminal that passes keys as they are pressed. Ctrl-C stays a signal, and output is not changed.
pub(super) struct Keys {
    original: Option<Termios>,
    can_come: bool,
    keys: mpsc::Receiver<u8>,
}

impl Keys {
    /// Starts to read standard input. One that is no terminal is read as it is; the end of a pipe, whose other end is
    /// a program that has exited, is the key `q`. The end of anything else, such as `/dev/null`, is not: a job that
    /// has no terminal watches until the claims hold.
    pub(super) fn open() -> Self {
        let stdin = std::io::stdin();
        let original = isatty(&stdin).then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(mut changed) = original.clone() {
            changed.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
            _ = tcsetattr(&stdin, OptionalActions::Now, &changed);
        }
        let is_pipe =
            fstat(&stdin).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo);
        let can_come = isatty(&stdin) || is_pipe;
        let (sender, keys) = mpsc::channel(16);
        // A thread of its own: a pending read of the runtime would keep the process from exiting.
        std::thread::spawn(move || {
            let mut read = [0; 64];
            while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut read) {
                // A terminal sends the sequence of a key that has no character of its own in one piece.
                let keys = match &read[..count] {
                    [ESCAPE, _, ..] => &[],
                    keys => keys,
                };
                for key in keys {
                    if sender.blocking_send(*key).is_err() {
                        return;
                    }
                }
            }
            if is_pipe {
                _ = sender.blocking_send(b'q');
            }
        });
        Self { original, can_come, keys }
    }

    /// Returns true if a person, or another program, can press keys.
    pub(super) fn can_come(&self) -> bool {
        self.can_come
    }

    /// The next key; never at the end of input.
    pub(super) async fn next(&mut self) -> u8 {
        match self.keys.recv().await {
            Some(key) => key,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(original) = &self.original {
            _ = tcsetattr(std::io::stdin(), OptionalActions::Now, original);
        }
    }
}
