//! What containers print: a file for each run, in the format of the container runtime interface
//! (`TIME stdout F text`), so that a reader may come late, filter by time, and wait for more.

use super::live::Listeners;
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

/// A run's file is moved aside at this size; one such older part is kept, as kubelet's default.
const PART: u64 = 10 << 20;
/// A longer line is written in pieces.
const LINE: usize = 16 << 10;

/// The logs of one container: of the run going on, and of the one before.
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
    /// How often the file was moved aside.
    part: u64,
    ended: bool,
}

impl Log {
    pub(crate) fn new(folder: PathBuf) -> Arc<Self> {
        Arc::new(Self { folder, runs: Mutex::default(), changed: watch::Sender::new(0) })
    }

    /// Begins the log of a run and forgets all but the one before.
    pub(crate) fn begin(&self, number: i32) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{number}.log"));
        let file = File::create(&path)?;
        let mut runs = self.lock();
        runs.push_back(Run { number, path, file: Some(file), size: 0, part: 0, ended: false });
        while runs.len() > 2 {
            if let Some(old) = runs.pop_front() {
                let _ = fs::remove_file(older(&old.path));
                let _ = fs::remove_file(old.path);
            }
        }
        Ok(())
    }

    /// Copies a stream of the current run until its end, to those who read along as it comes.
    pub(crate) async fn copy(
        &self,
        name: &str,
        mut from: impl AsyncRead + Unpin,
        along: Option<&Listeners>,
    ) {
        let mut line: Vec<u8> = Vec::new();
        let mut buffer = vec![0; LINE];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if let Some(along) = along {
                along.tell(buffer.get(..read).unwrap_or_default()).await;
            }
            for piece in buffer.get(..read).unwrap_or_default().split_inclusive(|b| *b == b'\n') {
                line.extend_from_slice(piece);
                if line.last() == Some(&b'\n') || line.len() >= LINE {
                    self.write(name, &line);
                    line.clear();
                }
            }
        }
        if !line.is_empty() {
            self.write(name, &line);
        }
    }

    /// Nothing more will come from the current run.
    pub(crate) fn end(&self) {
        if let Some(run) = self.lock().back_mut() {
            run.ended = true;
            run.file = None;
        }
        self.changed.send_modify(|n| *n += 1);
    }

    fn write(&self, name: &str, line: &[u8]) {
        let (text, tag) = match line.strip_suffix(b"\n") {
            Some(text) => (text, 'F'),
            None => (line, 'P'),
        };
        let mut record = format!("{:.9} {name} {tag} ", Timestamp::now()).into_bytes();
        record.extend_from_slice(text);
        record.push(b'\n');
        if let Some(run) = self.lock().back_mut() {
            // A full disk loses lines rather than the container.
            let _ = run.append(&record);
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// The lines that `options` ask for. `container` and `pod` are for messages.
    pub(crate) fn read(
        self: &Arc<Self>,
        options: &LogOptions,
        container: &str,
        pod: &str,
        waiting: &str,
    ) -> Result<BoxStream<'static, Bytes>, NodeError> {
        let changes = self.changed.subscribe();
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
        let mut reader = Reader {
            log: self.clone(),
            number: number.unwrap_or_default(),
            part: 0,
            offset: 0,
            file: None,
            since: options
                .since_seconds
                .and_then(|s| Timestamp::now().checked_sub(SignedDuration::from_secs(s)).ok()),
            timestamps: options.timestamps,
            left: options.limit_bytes.map(|n| n.max(0) as usize),
            changes,
            follow: options.follow,
            done: false,
        };
        let first = reader
            .start(options.tail_lines)
            .map_err(|e| NodeError::Internal(format!("cannot read the log: {e}")))?;
        let rest =
            stream::unfold(
                reader,
                |mut reader| async move { Some((reader.more().await?, reader)) },
            );
        Ok(stream::iter((!first.is_empty()).then_some(first)).chain(rest).boxed())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Run>> {
        self.runs.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Run {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + record.len() as u64 > PART {
            fs::rename(&self.path, older(&self.path))?;
            self.file = Some(File::create(&self.path)?);
            self.size = 0;
            self.part += 1;
        }
        if let Some(file) = &mut self.file {
            file.write_all(record)?;
            self.size += record.len() as u64;
        }
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

struct Reader {
    log: Arc<Log>,
    number: i32,
    /// Where it has come to: in which part of the run, and at which byte of it.
    part: u64,
    offset: u64,
    /// The file of that part, held open: the pod's folder may be removed while somebody follows.
    file: Option<(u64, File)>,
    since: Option<Timestamp>,
    timestamps: bool,
    left: Option<usize>,
    changes: watch::Receiver<u64>,
    follow: bool,
    done: bool,
}

impl Reader {
    fn start(&mut self, tail: Option<i64>) -> io::Result<Bytes> {
        if let Some(run) = self.log.lock().iter().find(|r| r.number == self.number) {
            self.part = run.part.saturating_sub(1);
        }
        let raw = self.raw()?;
        let mut lines: Vec<&[u8]> = raw.split_inclusive(|b| *b == b'\n').collect();
        if let Some(tail) = tail.and_then(|n| usize::try_from(n).ok()) {
            lines.drain(..lines.len().saturating_sub(tail));
        }
        Ok(self.format(&lines))
    }

    async fn more(&mut self) -> Option<Bytes> {
        loop {
            if self.done || !self.follow || self.left == Some(0) {
                return None;
            }
            self.changes.borrow_and_update();
            // Asked before reading, so that the last lines of an ended run are not missed.
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

    /// What was written since it was last asked.
    fn raw(&mut self) -> io::Result<Vec<u8>> {
        let log = self.log.clone();
        // Held while reading, so that no file is moved in between. Readers are people, and few.
        let runs = log.lock();
        let mut raw = Vec::new();
        let Some(run) = runs.iter().find(|r| r.number == self.number) else { return Ok(raw) };
        while self.part <= run.part {
            let path = match run.part - self.part {
                0 => run.path.clone(),
                1 => older(&run.path),
                _ => {
                    (self.part, self.offset) = (run.part - 1, 0);
                    continue;
                }
            };
            let mut file = match self.file.take() {
                Some((part, file)) if part == self.part => file,
                _ => File::open(path)?,
            };
            file.seek(SeekFrom::Start(self.offset))?;
            self.offset += file.read_to_end(&mut raw)? as u64;
            if self.part == run.part {
                self.file = Some((self.part, file));
                break;
            }
            (self.part, self.offset) = (self.part + 1, 0);
        }
        Ok(raw)
    }

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

    async fn read(log: &Arc<Log>, options: LogOptions) -> String {
        let chunks: Vec<Bytes> =
            log.read(&options, "app", "p", "ContainerCreating").unwrap().collect().await;
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn lines_are_filtered_cut_and_followed() {
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
    async fn a_file_that_grew_is_moved_aside_and_still_read() {
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
}
