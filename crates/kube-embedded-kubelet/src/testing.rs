//! Test support: a program to run in containers, temporary directories, waiting, and requirements.

use k8s_openapi::api::core::v1::Pod;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Nothing that a test waits for takes nearly as long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// The annotation that makes the worker of a pod panic.
pub(crate) const PANIC_ANNOTATION: &str = "test.kube-embedded/panic";

/// A temporary directory, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kubelet-test-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns the static test program. It is kept between runs, because compiling it takes a second.
pub(crate) fn tool() -> &'static Path {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| {
        let source = include_str!("testing/tool.rs");
        let mut hash = 0xcbf29ce484222325_u64;
        source.bytes().for_each(|b| hash = (hash ^ u64::from(b)).wrapping_mul(0x100000001b3));
        // Next to the test program: target/debug/deps.
        let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let tool = folder.join(format!("kubelet-tool-{hash:x}"));
        if !tool.exists() {
            let part = folder.join(format!("kubelet-tool-{hash:x}.{}", std::process::id()));
            let code = part.with_extension("rs");
            fs::write(&code, source).unwrap();
            let done = Command::new("rustc")
                .args([
                    "--edition=2024",
                    "-O",
                    "-Ctarget-feature=+crt-static",
                    "-Cstrip=symbols",
                    "-o",
                ])
                .args([&part, &code])
                .status()
                .unwrap();
            assert!(done.success());
            fs::rename(&part, &tool).unwrap();
            let _ = fs::remove_file(code);
        }
        tool
    })
}

/// Creates a root file system that contains only the tool, as `/tool`.
pub(crate) fn rootfs() -> Folder {
    let folder = Folder::new();
    fs::copy(tool(), folder.0.join("tool")).unwrap();
    folder
}

/// Panics in the worker of a pod that is annotated so.
pub(crate) fn injected_panic(pod: &Pod) {
    if let Some(text) = pod.metadata.annotations.as_ref().and_then(|a| a.get(PANIC_ANNOTATION)) {
        panic!("{text}");
    }
}

/// Polls until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < TIMEOUT, "not within {TIMEOUT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
