//! The check of the files that a start reads for TLS, mail and the pages, without a start.

use super::ServeError;
use super::tls::TlsFiles;
use crate::config::Config;
use crate::mail;
use crate::pages::Logo;

/// The templates of mails.
pub fn templates(config: &Config) -> Result<mail::Templates, mail::TemplateError> {
    mail::Templates::load(config.mail.templates_dir.as_deref(), &config.organisation, config.support.as_deref())
}

/// Reads the files as a start does. Returns all that is wrong with them.
pub async fn check_files(config: &Config) -> Vec<ServeError> {
    let mut faults: Vec<ServeError> = Vec::new();
    if let Some(files) = TlsFiles::of(&config.tls) {
        faults.extend(files.faults().await.into_iter().map(ServeError::from));
    }
    if let (Some(path), Some(_)) = (&config.pages.logo, config.pages.listen) {
        faults.extend(Logo::read(path).await.err().map(ServeError::from));
    }
    faults.extend(mail::Transport::faults(&config.mail).into_iter().map(ServeError::from));
    faults.extend(templates(config).err().map(ServeError::from));
    faults
}
