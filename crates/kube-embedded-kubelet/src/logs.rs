//! The logs of containers: one file per run, in the format of the container runtime interface
//! (`TIME stdout F text`), so that a reader can filter by time and follow.

use crate::output::OutputBroadcast;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use kube_embedded_core::node_api::{LogOptions, NodeError};
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::watch,
};

/// A file is rotated at this size (the kubelet's default of `containerLogMaxSize`); one rotated file
/// is kept.
const MAX_SIZE: u64 = 10 << 20;
/// A longer line is written in several records, all but the last tagged `P` (partial).
const MAX_LINE: usize = 16 << 10;

/// The logs of one container: of the current run and of the previous one.
pub(crate) struct Log {
    folder: PathBuf,
    runs: Mutex<VecDeque<Run>>,
    changed: watch::Sender<u64>,
}

struct Run {
    number: i32,
    path: PathBuf,
    file: Option<File>,
    size: u64,
    /// The number of rotations of the file.
    rotations: u64,
    ended: bool,
}

impl Log {
    pub(crate) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, runs: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Begins the log of a run, and removes those before the previous run.
    pub(crate) fn begin(&self, number: i32) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{number}.log"));
        let file = File::create(&path)?;
        let mut runs = self.lock();
        runs.push_back(Run { number, path, file: Some(file), size: 0, rotations: 0, ended: false });
        while runs.len() > 2 {
            if let Some(old) = runs.pop_front() {
                let _ = fs::remove_file(rotated(&old.path));
                let _ = fs::remove_file(old.path);
            }
        }
        Ok(())
    }

    /// Writes a stream of the current run to the log until it ends, and sends it to the attached
    /// clients as it comes. `name` is `stdout` or `stderr`.
    pub(crate) async fn copy(
        &self,
        name: &str,
        mut from: impl AsyncRead + Unpin,
        attached: Option<&OutputBroadcast>,
    ) {
        let mut line: Vec<u8> = Vec::new();
        let mut buffer = vec![0; MAX_LINE];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if let Some(attached) = attached {
                attached.send(buffer.get(..read).unwrap_or_default()).await;
            }
            for piece in buffer.get(..read).unwrap_or_default().split_inclusive(|b| *b == b'\n') {
                line.extend_from_slice(piece);
                if line.last() == Some(&b'\n') || line.len() >= MAX_LINE {
                    self.write(name, &line);
                    line.clear();
                }
            }
        }
        if !line.is_empty() {
            self.write(name, &line);
        }
    }

    /// Ends the log of the current run, and with it the streams that follow it.
    pub(crate) fn end(&self) {
        if let Some(run) = self.lock().back_mut() {
            run.ended = true;
            run.file = None;
        }
        self.changed.send_modify(|n| *n += 1);
    }

    fn write(&self, name: &str, line: &[u8]) {
        let record = record(Timestamp::now(), name, line);
        if let Some(run) = self.lock().back_mut() {
            // A full disk costs lines, not the container.
            if let Err(error) = run.append(&record) {
                tracing::warn!(file = %run.path.display(), %error, "failed to write a log line");
            }
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// Returns the lines that `options` select. `container`, `pod` and the reason why the container is
    /// `waiting` are for messages.
    ///
    /// # Errors
    /// When there was no such run, or its file cannot be read.
    pub(crate) fn read(
        self: &Arc<Self>,
        options: &LogOptions,
        container: &str,
        pod: &str,
        waiting: &str,
    ) -> Result<BoxStream<'static, Bytes>, NodeError> {
        let number = {
            let runs = self.lock();
            match (options.previous, runs.len()) {
                (true, 0 | 1) => {
                    return Err(NodeError::BadRequest(format!(
                        "previous terminated container {container:?} in pod {pod:?} not found"
                    )));
                }
                (false, 0) => {
                    return Err(NodeError::BadRequest(format!(
                        "container {container:?} in pod {pod:?} is waiting to start: {waiting}"
                    )));
                }
                (true, _) => runs.front().map(|r| r.number),
                (false, _) => runs.back().map(|r| r.number),
            }
        };
        let mut reader = self.reader(number.unwrap_or_default(), options);
        let first = reader
            .start(options.tail_lines)
            .map_err(|e| NodeError::Internal(format!("failed to read the log: {e}")))?;
        let rest =
            stream::unfold(
                reader,
                |mut reader| async move { Some((reader.more().await?, reader)) },
            );
        Ok(stream::iter((!first.is_empty()).then_some(first)).chain(rest).boxed())
    }

    /// Returns the end of the log of the current run: at most this many lines and bytes.
    pub(crate) fn tail(self: &Arc<Self>, lines: i64, bytes: usize) -> Bytes {
        let Some(number) = self.lock().back().map(|run| run.number) else { return Bytes::new() };
        let text = self.reader(number, &LogOptions::default()).start(Some(lines));
        let text = text.unwrap_or_default();
        text.slice(text.len().saturating_sub(bytes)..)
    }

    fn reader(self: &Arc<Self>, number: i32, options: &LogOptions) -> Reader {
        Reader {
            log: self.clone(),
            number,
            part: 0,
            offset: 0,
            file: None,
            since: options
                .since_seconds
                .and_then(|s| Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok()),
            timestamps: options.timestamps,
            left: options.limit_bytes.map(|n| n.max(0) as usize),
            changes: self.changed.subscribe(),
            follow: options.follow,
            done: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Run>> {
        self.runs.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Formats a line, or a part of one, as the container runtime interface has it.
fn record(at: Timestamp, stream: &str, line: &[u8]) -> Vec<u8> {
    let (text, tag) = match line.strip_suffix(b"\n") {
        Some(text) => (text, 'F'),
        None => (line, 'P'),
    };
    let mut record = format!("{at:.9} {stream} {tag} ").into_bytes();
    record.extend_from_slice(text);
    record.push(b'\n');
    record
}

impl Run {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + record.len() as u64 > MAX_SIZE {
            fs::rename(&self.path, rotated(&self.path))?;
            self.file = Some(File::create(&self.path)?);
            self.size = 0;
            self.rotations += 1;
        }
        if let Some(file) = &mut self.file {
            file.write_all(record)?;
            self.size += record.len() as u64;
        }
        Ok(())
    }
}

fn rotated(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// A client that reads the log of a run.
struct Reader {
    log: Arc<Log>,
    number: i32,
    /// The position: the file, counted by rotations, and the offset in it.
    part: u64,
    offset: u64,
    /// That file, held open: the pod's directory may be removed while a client follows.
    file: Option<(u64, File)>,
    since: Option<Timestamp>,
    timestamps: bool,
    /// The bytes that are left of `limit_bytes`.
    left: Option<usize>,
    changes: watch::Receiver<u64>,
    follow: bool,
    done: bool,
}

impl Reader {
    /// Returns what is in the log already.
    fn start(&mut self, tail: Option<i64>) -> io::Result<Bytes> {
        if let Some(run) = self.log.lock().iter().find(|r| r.number == self.number) {
            self.part = run.rotations.saturating_sub(1);
        }
        let raw = self.raw()?;
        let mut lines: Vec<&[u8]> = raw.split_inclusive(|b| *b == b'\n').collect();
        if let Some(tail) = tail.and_then(|n| usize::try_from(n).ok()) {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Ok(self.format(&lines))
    }

    /// Waits for more lines; `None` at the end.
    async fn more(&mut self) -> Option<Bytes> {
        loop {
            if self.done || !self.follow || self.left == Some(0) {
                return None;
            }
            self.changes.borrow_and_update();
            // Checked before reading, so that the last lines of an ended run are not missed.
            self.done =
                self.log.lock().iter().find(|r| r.number == self.number).is_none_or(|r| r.ended);
            let raw = self.raw().ok()?;
            let lines: Vec<&[u8]> = raw.split_inclusive(|b| *b == b'\n').collect();
            let text = self.format(&lines);
            if !text.is_empty() {
                return Some(text);
            }
            if !self.done && self.changes.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Returns the records that were written since the last call.
    fn raw(&mut self) -> io::Result<Vec<u8>> {
        let log = self.log.clone();
        // Held while reading, so that no file is rotated meanwhile. Readers are people, and few.
        let runs = log.lock();
        let mut raw = Vec::new();
        let Some(run) = runs.iter().find(|r| r.number == self.number) else { return Ok(raw) };
        while self.part <= run.rotations {
            let path = match run.rotations - self.part {
                0 => run.path.clone(),
                1 => rotated(&run.path),
                _ => {
                    (self.part, self.offset) = (run.rotations - 1, 0);
                    continue;
                }
            };
            let mut file = match self.file.take() {
                Some((part, file)) if part == self.part => file,
                _ => File::open(path)?,
            };
            file.seek(SeekFrom::Start(self.offset))?;
            self.offset += file.read_to_end(&mut raw)? as u64;
            if self.part == run.rotations {
                self.file = Some((self.part, file));
                break;
            }
            (self.part, self.offset) = (self.part + 1, 0);
        }
        Ok(raw)
    }

    /// Turns records into the text that the client gets.
    fn format(&mut self, lines: &[&[u8]]) -> Bytes {
        let mut text = Vec::new();
        for line in lines {
            let mut parts = line.splitn(4, |b| *b == b' ');
            let (Some(time), _, tag, Some(content)) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if let Some(since) = self.since {
                let at = std::str::from_utf8(time).ok().and_then(|t| t.parse::<Timestamp>().ok());
                if at.is_some_and(|at| at < since) {
                    continue;
                }
            }
            if self.timestamps {
                text.extend_from_slice(time);
                text.push(b' ');
            }
            let content = if tag == Some(b"P") {
                content.strip_suffix(b"\n").unwrap_or(content)
            } else {
                content
            };
            text.extend_from_slice(content);
        }
        if let Some(left) = &mut self.left {
            text.truncate(*left);
            *left -= text.len();
        }
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;
    use proptest::{collection::vec, prelude::*};

    async fn read(log: &Arc<Log>, options: LogOptions) -> String {
        let chunks: Vec<Bytes> =
            log.read(&options, "app", "p", "ContainerCreating").unwrap().collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn lines_are_filtered_limited_and_followed() {
        let folder = Folder::new();
        let log = Log::new(folder.0.clone());
        let early = log
            .read(&LogOptions::default(), "app", "p", "ContainerCreating")
            .err()
            .unwrap()
            .to_string();
        assert_eq!(early, "container \"app\" in pod \"p\" is waiting to start: ContainerCreating");
        log.begin(0).unwrap();
        log.copy("stdout", &b"one\ntwo\nthree"[..], None).await;
        assert_eq!(read(&log, LogOptions::default()).await, "one\ntwo\nthree");
        assert_eq!(
            read(&log, LogOptions { tail_lines: Some(2), ..Default::default() }).await,
            "two\nthree"
        );
        assert_eq!(read(&log, LogOptions { tail_lines: Some(0), ..Default::default() }).await, "");
        assert_eq!(
            read(&log, LogOptions { limit_bytes: Some(5), ..Default::default() }).await,
            "one\nt"
        );
        assert_eq!(
            read(&log, LogOptions { since_seconds: Some(-60), ..Default::default() }).await,
            ""
        );
        let stamped =
            read(&log, LogOptions { timestamps: true, tail_lines: Some(1), ..Default::default() })
                .await;
        assert!(
            stamped.ends_with("Z three")
                && stamped.len() == "2026-01-01T00:00:00.123456789Z three".len(),
            "{stamped}"
        );
        let missing = log
            .read(&LogOptions { previous: true, ..Default::default() }, "app", "p", "")
            .err()
            .unwrap();
        assert_eq!(
            missing.to_string(),
            "previous terminated container \"app\" in pod \"p\" not found"
        );

        let options = LogOptions { follow: true, tail_lines: Some(0), ..Default::default() };
        let follower = log.read(&options, "app", "p", "").unwrap();
        log.copy("stderr", &b"four\n"[..], None).await;
        log.end();
        let chunks: Vec<Bytes> = follower.collect().await;
        assert_eq!(chunks.concat(), b"four\n");
        log.begin(1).unwrap();
        assert_eq!(
            read(&log, LogOptions { previous: true, tail_lines: Some(1), ..Default::default() })
                .await,
            "four\n"
        );
    }

    #[tokio::test]
    async fn rotated_file_is_still_read() {
        let folder = Folder::new();
        let log = Log::new(folder.0.clone());
        log.begin(0).unwrap();
        let line = [b"x".repeat(1 << 20), vec![b'\n']].concat();
        let follower =
            log.read(&LogOptions { follow: true, ..Default::default() }, "app", "p", "").unwrap();
        for _ in 0..12 {
            log.copy("stdout", &line[..], None).await;
        }
        log.end();
        let size: usize = follower.map(|c| c.len()).collect::<Vec<_>>().await.iter().sum();
        assert_eq!(size, 12 * line.len());
        assert!(fs::metadata(folder.0.join("0.log")).unwrap().len() < 3 << 20);
    }
    /// Repeated bytes (long lines), each piece followed by short lines or by none.
    fn printed() -> impl Strategy<Value = Vec<u8>> {
        let piece = (any::<u8>(), 0..40_000_usize, vec(any::<u8>(), 0..50));
        let piece = piece.prop_map(|(byte, count, tail)| {
            // Never a line feed: tens of thousands of lines would take too long.
            [vec![byte | 0x10; count], tail, b"\n".repeat(count % 2)].concat()
        });
        vec(piece, 0..5).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn output_of_any_bytes_and_line_lengths_is_read_back_unchanged(printed in printed()) {
            let folder = Folder::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let read = runtime.block_on(async {
                let log = Log::new(folder.0.clone());
                log.begin(0).unwrap();
                log.copy("stdout", &printed[..], None).await;
                log.end();
                let stream = log.read(&LogOptions::default(), "app", "p", "").unwrap();
                stream.collect::<Vec<Bytes>>().await.concat()
            });
            prop_assert!(read == printed);
        }
    }
}
