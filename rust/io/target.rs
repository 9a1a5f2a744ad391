//! What an output is to be: its path, and the files of it that hold no merged tensor.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, quoted};

/// Where the output goes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// One file.
    File(Location),
    /// A folder with everything the plan lists.
    Folder(Location),
}

/// A path of the output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The path, as the user gave it.
    pub path: PathBuf,
}

impl Target {
    /// The path that will exist.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::File(at) | Self::Folder(at) => &at.path,
        }
    }

    /// Where a file of the plan will be; `relative` is empty for a single file.
    pub fn resolve(&self, relative: &str) -> Result<PathBuf> {
        match self {
            Self::File(at) if relative.is_empty() => Ok(at.path.clone()),
            Self::Folder(at) if is_plain(relative) => Ok(at.path.join(relative)),
            _ => Err(Error::plan(format!(
                "plan path {}: expected a relative path inside the output",
                quoted(relative)
            ))),
        }
    }
}

/// A small file whose contents the plan holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Relative path inside the output folder.
    pub path: String,
    /// Contents.
    pub text: String,
}

/// A file taken over from elsewhere.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copied {
    /// Relative path inside the output folder.
    pub path: String,
    /// The file to take.
    pub from: PathBuf,
    /// How to take it.
    pub how: CopyMode,
}

/// How a file is taken over.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum CopyMode {
    /// Share its extents where the filesystem can, else copy.
    Auto,
    /// A hard link: no space, but a later change of one changes both.
    Link,
    /// Share its extents, or fail.
    Reflink,
    /// A full copy.
    Copy,
}

fn is_plain(relative: &str) -> bool {
    !relative.is_empty()
        && Path::new(relative).components().all(|c| matches!(c, Component::Normal(_)))
        && !relative.contains(['\\', '\0', ':'])
}
