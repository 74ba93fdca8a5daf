//! ARCHITECTURE.md matches the source tree.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::harness::transcript::prose;

/// Top-level folders whose contents the document can name.
const ROOTS: &[&str] = &["src/", "tests/", "proto/", "docs/", "examples/", "benches/", ".ci/", ".github/"];

/// Extensions of top-level files.
const ENDINGS: &[&str] = &["md", "toml", "yaml", "rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).expect("a document")
}

/// All paths of this repository in a text.
fn paths(text: &str) -> BTreeSet<&str> {
    let is_of_path = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    text.split(|c| !is_of_path(c))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| {
            let is_below = ROOTS.iter().any(|folder| word.starts_with(folder));
            let ending = word.rsplit_once('.').filter(|(name, _)| !name.is_empty()).map_or("", |(_, ending)| ending);
            let is_at_top = !word.contains('/') && ENDINGS.contains(&ending);
            is_below || is_at_top || ending == "rs"
        })
        .collect()
}

/// The contents of a folder, as paths from the root; folders end with a slash.
fn entries(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path: PathBuf = entry.expect("an entry").path();
        let below = path.strip_prefix(root()).expect("below the root").display().to_string();
        if path.is_dir() {
            found.push(format!("{below}/"));
            found.extend(entries(&path).into_iter().filter(|below| below.ends_with('/')));
        } else {
            found.push(below);
        }
    }
    found
}

#[test]
fn every_path_that_architecture_md_names_exists() {
    let text = read("ARCHITECTURE.md");
    let named = paths(&text);
    assert!(named.len() > 50, "the paths were not found: {named:?}");
    // Files are also named relative to `src/`, as in a diagram.
    let exists = |path: &str| root().join(path).exists() || root().join("src").join(path).exists();
    let missing: Vec<_> = named.into_iter().filter(|path| !exists(path)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn architecture_md_names_every_folder_and_every_file_at_the_top_of_src() {
    let text = read("ARCHITECTURE.md");
    let named = paths(&text);
    let missing: Vec<_> =
        entries(&root().join("src")).into_iter().filter(|path| !named.contains(path.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut documents = vec![PathBuf::from("docs/operations.md")];
    for folder in [".", "docs", "docs/adr"] {
        let files = std::fs::read_dir(root().join(folder)).expect("a folder");
        let files = files.map(|file| Path::new(folder).join(file.expect("an entry").file_name()));
        documents.extend(files.filter(|file| file.extension().is_some_and(|extension| extension == "md")));
    }
    let mut broken = Vec::new();
    for document in documents {
        let text = prose(&std::fs::read_to_string(root().join(&document)).expect("a document"));
        let folder = root().join(&document).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !file.is_empty() && !folder.join(file).exists() {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:?}");
}
