//! Mail as files, for trials without a relay: one `.eml` each, which mail programs open.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::fs::{DirBuilder, File, OpenOptions, read_dir, remove_file, rename};
use tokio::io::AsyncWriteExt;

use super::{FILE_ENDING, Mail, stamp};
use crate::domain::time::Timestamp;

/// A folder for mail.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Counts the drafts, so that two attempts never write to the same one.
    drafts: AtomicU64,
}

impl Folder {
    /// A folder at this path. It is created with the first mail.
    pub fn new(path: PathBuf) -> Folder {
        Folder { path, drafts: AtomicU64::new(0) }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a mail, readable by its owner alone, and returns the path of the file. The file appears under its name only when
    /// it is complete and on the disk. The same mail, tried again, is the same file.
    pub async fn write(&self, mail: &Mail) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).await?;
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let draft = self.path.join(format!(".{}.{}-{number}", mail.name, std::process::id()));
        let path = self.path.join(&mail.name);
        let done = self.write_by(&draft, &path, &mail.content).await;
        if done.is_err() {
            // The error says more than what is left of the draft, and nothing more can be done if it stays.
            let _ = remove_file(&draft).await;
        }
        done.map(|()| path)
    }

    /// Deletes the mails that were written before `before`, and drafts that a crash has left. Other files stay.
    pub async fn sweep(&self, before: Timestamp) -> io::Result<()> {
        let mut files = match read_dir(&self.path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            found => found?,
        };
        let before = stamp(before);
        while let Some(file) = files.next_entry().await? {
            if file.file_name().to_str().is_some_and(|name| is_mail_before(name, &before)) {
                remove_file(file.path()).await?;
            }
        }
        Ok(())
    }

    async fn write_by(&self, draft: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft).await?;
        file.write_all(content).await?;
        // Tokio reports a failed write here. Without it, `sync_all` succeeds on a full disk.
        file.flush().await?;
        file.sync_all().await?;
        rename(draft, path).await?;
        // The new name is on the disk only when the folder is.
        File::open(&self.path).await?.sync_all().await
    }
}

/// Returns whether a file is a mail, or a draft of one, whose name is before that instant.
fn is_mail_before(name: &str, before: &str) -> bool {
    let (name, is_whole) = match name.strip_prefix('.') {
        Some(draft) => (draft, draft.contains(FILE_ENDING)),
        None => (name, name.ends_with(FILE_ENDING)),
    };
    let stamp = name.split('-').next().unwrap_or_default();
    let is_stamp = |c: (usize, char)| matches!(c, (8, 'T') | (15, 'Z')) || c.1.is_ascii_digit();
    is_whole && stamp.len() == before.len() && stamp.char_indices().all(is_stamp) && stamp < before
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::domain::email::EmailAddress;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn mail(name: &str, content: &str) -> Result<Mail, Box<dyn std::error::Error>> {
        let address = EmailAddress::parse("ada@example.com")?;
        Ok(Mail { from: address.clone(), to: address, content: content.into(), name: name.to_owned() })
    }

    fn names(folder: &Folder) -> io::Result<Vec<String>> {
        let files = std::fs::read_dir(folder.path())?;
        let mut names =
            files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    #[tokio::test]
    async fn a_mail_tried_again_is_the_same_file_and_only_its_owner_can_read_it() -> Outcome {
        let dir = tempfile::tempdir()?;
        let folder = Folder::new(dir.path().join("data/mail"));
        for content in ["once", "twice"] {
            let path = folder.write(&mail("a.eml", content)?).await?;
            assert_eq!(
                (std::fs::read_to_string(&path)?.as_str(), names(&folder)?),
                (content, vec!["a.eml".to_owned()])
            );
            let mode = |path: &Path| std::fs::metadata(path).map(|found| found.permissions().mode() & 0o777);
            assert_eq!((mode(folder.path())?, mode(&path)?), (0o700, 0o600));
        }
        Ok(())
    }

    #[tokio::test]
    async fn old_mail_and_old_drafts_are_deleted_and_nothing_else() -> Outcome {
        let dir = tempfile::tempdir()?;
        let folder = Folder::new(dir.path().join("mail"));
        folder.sweep(Timestamp::from_micros(0)).await?;
        std::fs::create_dir(folder.path())?;
        let stay = [
            ".20261125T081233Z-a.eml.1-0",
            "00000000T000000Z-a.txt",
            "2026-a.eml",
            "20261125T081233Z-a.eml",
            "20261125T081234Z-a.eml",
            "a.eml",
        ];
        for name in stay.iter().chain(&[".20261125T081232Z-a.eml.1-0", "20261125T081232Z-a.eml"]) {
            std::fs::write(folder.path().join(name), "x")?;
        }
        folder.sweep(Timestamp::from_micros(1_795_594_353_000_000)).await?;
        assert_eq!(names(&folder)?, stay);
        Ok(())
    }

    #[tokio::test]
    async fn attempts_at_the_same_mail_at_once_leave_one_whole_file() -> Outcome {
        let dir = tempfile::tempdir()?;
        let folder = Folder::new(dir.path().to_owned());
        let whole = "x".repeat(100_000);
        let mail = mail("a.eml", &whole)?;
        let written = futures_util::future::join_all((0..16).map(|_| folder.write(&mail))).await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(
            (names(&folder)?, std::fs::read_to_string(dir.path().join("a.eml"))?),
            (vec!["a.eml".to_owned()], whole)
        );
        Ok(())
    }

    #[tokio::test]
    async fn a_file_that_cannot_take_its_name_is_an_error_and_leaves_no_draft() -> Outcome {
        let dir = tempfile::tempdir()?;
        let folder = Folder::new(dir.path().to_owned());
        std::fs::create_dir(dir.path().join("a.eml"))?;
        assert!(folder.write(&mail("a.eml", "x")?).await.is_err());
        assert_eq!(names(&folder)?, ["a.eml"]);
        assert!(folder.write(&mail("b.eml", "x")?).await.is_ok(), "other mail is written");
        Ok(())
    }
}
