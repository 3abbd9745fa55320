//! A program to run in containers, and folders that clean up after themselves.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

/// A folder that is gone with the test.
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

/// The static test program. Kept between runs, because compiling it takes a second.
pub(crate) fn tool() -> &'static Path {
    static TOOL: OnceLock<PathBuf> = OnceLock::new();
    TOOL.get_or_init(|| {
        let source = include_str!("testing/tool.rs");
        let mut hash = 0xcbf29ce484222325_u64;
        source.bytes().for_each(|b| hash = (hash ^ u64::from(b)).wrapping_mul(0x100000001b3));
        // Beside the test program: target/debug/deps.
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

/// A root file system that holds only the tool, as `/tool`.
pub(crate) fn rootfs() -> Folder {
    let folder = Folder::new();
    fs::copy(tool(), folder.0.join("tool")).unwrap();
    folder
}
