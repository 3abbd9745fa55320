//! What the program carries along: an archive at its end, which the first start unpacks.
//!
//! `<program><archive><SHA-256 of the archive, 32 bytes><length of the archive, 8 bytes><MAGIC>`. The loader of the
//! kernel ignores what follows the program.

use anyhow::{Context as _, ensure};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::{env, process};
use tar::HeaderMode;

const MAGIC: &[u8; 8] = b"CANARY01";
/// Digest, length and magic.
const TRAILER: u64 = 48;
/// The names by which this program is called from the installation.
const PROGRAMS: [&str; 2] = ["labs", "kube-embedded"];

/// Where the archive is in the program.
struct Archive {
    start: u64,
    length: u64,
    digest: [u8; 32],
}

impl Archive {
    /// Finds the archive; `None` if the program has none.
    fn find(program: &mut File) -> io::Result<Option<Self>> {
        let size = program.seek(SeekFrom::End(0))?;
        let Some(end) = size.checked_sub(TRAILER) else { return Ok(None) };
        program.seek(SeekFrom::Start(end))?;
        let (mut digest, mut length, mut magic) = ([0; 32], [0; 8], [0; 8]);
        program.read_exact(&mut digest)?;
        program.read_exact(&mut length)?;
        program.read_exact(&mut magic)?;
        let length = u64::from_le_bytes(length);
        let start = end.checked_sub(length);
        Ok(start.filter(|_| magic == *MAGIC).map(|start| Self { start, length, digest }))
    }

    /// Reads the archive and compares it with its digest.
    fn read(&self, program: &mut File) -> anyhow::Result<Vec<u8>> {
        program.seek(SeekFrom::Start(self.start))?;
        let mut bytes = Vec::new();
        program.take(self.length).read_to_end(&mut bytes)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        ensure!(digest == self.digest, "the file is damaged; copy it again");
        Ok(bytes)
    }

    fn name(&self) -> String {
        self.digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Returns the folder of the installation, and unpacks it at the first start of this version.
pub(crate) fn open(program: impl Fn() -> io::Result<PathBuf>) -> anyhow::Result<PathBuf> {
    let program = program().context("failed to find this program's own file")?;
    let problem = || format!("failed to read {}", program.display());
    let mut file = File::open(&program).with_context(problem)?;
    let archive = Archive::find(&mut file).with_context(problem)?;
    let archive = archive.with_context(|| {
        format!(
            "{} carries no images; `cargo xtask package` makes the file that does",
            program.display()
        )
    })?;
    let home = home()?;
    let folder = home.join(archive.name());
    if !folder.is_dir() {
        let bytes = archive.read(&mut file).with_context(problem)?;
        unpack(&bytes, &home, &folder).with_context(|| {
            format!(
                "failed to unpack to {}; set CANARY_HOME to another directory",
                folder.display()
            )
        })?;
    }
    link(&program, &folder).with_context(|| format!("failed to write to {}", folder.display()))?;
    Ok(folder)
}

/// Returns the directory of all versions.
fn home() -> anyhow::Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let canary = variable("CANARY_HOME").map(|home| home.join("installed"));
    let data =
        || variable("XDG_DATA_HOME").or_else(|| Some(variable("HOME")?.join(".local/share")));
    let home = canary.or_else(|| Some(data()?.join("canary-labs")));
    let home = home.context("HOME is not set; set CANARY_HOME to a directory")?;
    std::path::absolute(home).context("failed to find the current directory")
}

/// Unpacks next to the folder and renames, so that no start ever sees half of it.
fn unpack(bytes: &[u8], home: &Path, folder: &Path) -> anyhow::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home)?;
    remove_parts(home)?;
    let part = folder.with_extension(format!("part-{}", process::id()));
    let unpacked = tar::Archive::new(GzDecoder::new(bytes))
        .unpack(&part)
        .and_then(|()| fs::create_dir(part.join("bin")))
        .and_then(|()| fs::rename(&part, folder));
    if unpacked.is_err() {
        _ = fs::remove_dir_all(&part);
    }
    // Another start may have been faster.
    if folder.is_dir() { Ok(()) } else { Ok(unpacked?) }
}

/// Removes what starts that were killed meanwhile left behind.
fn remove_parts(home: &Path) -> io::Result<()> {
    for entry in fs::read_dir(home)? {
        let path = entry?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let process = extension.and_then(|extension| extension.strip_prefix("part-"));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another start may be faster.
            _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// Links the other names of this program, which may have been moved since the last start.
fn link(program: &Path, folder: &Path) -> io::Result<()> {
    for name in PROGRAMS {
        let link = folder.join("bin").join(name);
        if fs::read_link(&link).is_ok_and(|target| target == program) {
            continue;
        }
        let part = link.with_extension(format!("part-{}", process::id()));
        symlink(program, &part)?;
        fs::rename(&part, &link)?;
    }
    Ok(())
}

/// Writes the program to a file, with an archive of all that an installation has.
pub(crate) fn pack(
    program: &Path,
    repository: &Path,
    images: &Path,
    to: &Path,
) -> anyhow::Result<()> {
    let mut source = File::open(program)?;
    // A program that has an archive already gets another one instead.
    let length = match Archive::find(&mut source)? {
        Some(archive) => archive.start,
        None => source.seek(SeekFrom::End(0))?,
    };
    source.seek(SeekFrom::Start(0))?;
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    archive.mode(HeaderMode::Deterministic);
    for (name, folder) in [
        ("manifests", &*repository.join("manifests")),
        ("app", &repository.join("app")),
        ("broken", &repository.join("labs/broken")),
        ("book/src", &repository.join("book/src")),
        ("images", images),
    ] {
        append(&mut archive, Path::new(name), folder)
            .with_context(|| format!("failed to pack {}", folder.display()))?;
    }
    let bytes = archive.into_inner()?.finish()?;
    let problem = || format!("failed to write {}", to.display());
    let part = to.with_added_extension("part");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o755);
    let mut file = options.open(&part).with_context(problem)?;
    io::copy(&mut source.take(length), &mut file).with_context(problem)?;
    let length = u64::try_from(bytes.len())?.to_le_bytes();
    for part in [&bytes[..], &Sha256::digest(&bytes), &length, MAGIC] {
        file.write_all(part).with_context(problem)?;
    }
    fs::rename(&part, to).with_context(problem)
}

/// Appends a folder, sorted, so that the same files give the same archive.
fn append<W: io::Write>(
    archive: &mut tar::Builder<W>,
    name: &Path,
    folder: &Path,
) -> io::Result<()> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    paths.sort();
    for path in paths {
        let Some(file) = path.file_name() else { continue };
        let name = name.join(file);
        if path.is_dir() {
            append(archive, &name, &path)?;
        } else if !file.as_encoded_bytes().starts_with(b".") {
            archive.append_path_with_name(&path, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = env::temp_dir().join(format!("canary-installation-{name}-{}", process::id()));
        _ = fs::remove_dir_all(&folder);
        for file in [
            "repository/manifests/lb/a.yml",
            "repository/app/src/main.rs",
            "repository/book/src/b.md",
            "repository/labs/broken/e.yaml",
            "images/stamp.json",
        ] {
            let file = folder.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "text").unwrap();
        }
        fs::write(folder.join("program"), "program").unwrap();
        folder
    }

    #[test]
    fn packed_program_is_found_unpacked_and_packed_again_to_the_same_bytes() {
        let folder = folder("again");
        let (once, twice) = (folder.join("once"), folder.join("twice"));
        let (repository, images) = (folder.join("repository"), folder.join("images"));
        pack(&folder.join("program"), &repository, &images, &once).unwrap();
        pack(&once, &repository, &images, &twice).unwrap();
        assert_eq!(fs::read(&once).unwrap(), fs::read(&twice).unwrap());
        let mut file = File::open(&once).unwrap();
        let archive = Archive::find(&mut file).unwrap().unwrap();
        assert_eq!(archive.start, 7);
        let installed = folder.join("home/installed");
        // Of a start that was killed; no process has this number.
        fs::create_dir_all(folder.join("home/installed.part-99999999/app")).unwrap();
        unpack(&archive.read(&mut file).unwrap(), &folder.join("home"), &installed).unwrap();
        for name in ["manifests/lb/a.yml", "app/src/main.rs", "book/src/b.md", "images/stamp.json"]
        {
            assert_eq!(fs::read_to_string(installed.join(name)).unwrap(), "text", "{name}");
        }
        link(&once, &installed).unwrap();
        link(&twice, &installed).unwrap();
        assert_eq!(fs::read_link(installed.join("bin/labs")).unwrap(), twice);
        assert_eq!(fs::read_dir(folder.join("home")).unwrap().count(), 1, "no parts are left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn damaged_file_is_reported_and_one_without_an_archive_is_known() {
        let folder = folder("damaged");
        let packed = folder.join("packed");
        pack(&folder.join("program"), &folder.join("repository"), &folder.join("images"), &packed)
            .unwrap();
        let mut bytes = fs::read(&packed).unwrap();
        bytes[20] ^= 1;
        fs::write(&packed, &bytes).unwrap();
        let mut file = File::open(&packed).unwrap();
        let archive = Archive::find(&mut file).unwrap().unwrap();
        let error = archive.read(&mut file).unwrap_err().to_string();
        assert_eq!(error, "the file is damaged; copy it again");
        for (cut, found) in [(bytes.len() - 1, false), (40, false), (0, false)] {
            fs::write(&packed, &bytes[..cut]).unwrap();
            let archive = Archive::find(&mut File::open(&packed).unwrap()).unwrap();
            assert_eq!(archive.is_some(), found, "{cut}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
