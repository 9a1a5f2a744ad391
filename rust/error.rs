//! The one error type of the core: a kind, a located message and a hint.
//!
//! Form: `<where>: <what>, expected <x>, got <y>`, lower case, names in backticks; the hint says
//! what a user can do. Messages escape control characters: names come from hostile files.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

/// What every fallible function of the core returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure this is; the binding maps each kind to one Python exception.
#[derive(Debug)]
pub enum Kind {
    /// A file is damaged or is not what the format allows.
    Checkpoint,
    /// The plan and the files do not fit together.
    Plan,
    /// The operating system refused; `path` is the file concerned.
    Io {
        /// What the system answered.
        source: io::Error,
        /// The file concerned.
        path: PathBuf,
    },
    /// The job was cancelled; nothing was left behind.
    Cancelled,
    /// A defect of the core itself.
    Internal,
}

/// A failure, with where it happened and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<Cow<'static, str>>,
}

impl Error {
    /// A damaged or unacceptable file.
    #[cold]
    pub fn checkpoint(message: impl Into<String>) -> Self {
        Self { kind: Kind::Checkpoint, message: message.into(), hint: None }
    }

    /// A plan that does not fit the files, or that contradicts itself.
    #[cold]
    pub fn plan(message: impl Into<String>) -> Self {
        Self { kind: Kind::Plan, message: message.into(), hint: None }
    }

    /// A system call that failed on `path`; `doing` is a verb phrase such as "cannot read".
    #[cold]
    #[must_use]
    pub fn io(source: io::Error, path: &Path, doing: &str) -> Self {
        let message = format!("{}: {doing}: {source}", path.display());
        Self { kind: Kind::Io { source, path: path.to_owned() }, message, hint: None }
    }

    /// The user asked to stop.
    #[cold]
    #[must_use]
    pub fn cancelled() -> Self {
        let message = "cancelled: nothing was written".to_owned();
        Self { kind: Kind::Cancelled, message, hint: None }
    }

    /// A defect of the core: the host gets an exception instead of an abort.
    #[cold]
    pub fn internal(message: impl Into<String>) -> Self {
        let hint = "this is a defect of submerge; please report it with the recipe";
        Self { kind: Kind::Internal, message: message.into(), hint: Some(hint.into()) }
    }

    /// The same error with advice for the user.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with something else the user should know.
    #[must_use]
    pub fn also(mut self, fact: &str) -> Self {
        self.hint = Some(match self.hint {
            Some(hint) => format!("{hint}; {fact}").into(),
            None => fact.to_owned().into(),
        });
        self
    }

    /// What sort of failure this is.
    #[must_use]
    pub fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The located message, without the hint.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What the user can do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// A name from a file made safe to print: quoted in backticks, control characters escaped, cut at
/// 120 characters so that a hostile header cannot flood a log.
#[must_use]
pub fn quoted(name: &str) -> String {
    const LIMIT: usize = 120;
    let mut out = String::from("`");
    for (at, c) in name.chars().enumerate() {
        if at == LIMIT {
            out.push('…');
            break;
        }
        if c.is_control() || is_bidi_control(c) || c == '`' {
            let _ = write!(out, "{}", c.escape_unicode());
        } else {
            out.push(c);
        }
    }
    out.push('`');
    out
}

/// Characters that reorder the text around them: a name could otherwise disguise itself.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped_and_cut() {
        assert_eq!(quoted("a.b"), "`a.b`");
        assert_eq!(quoted("a\n\u{202e}`"), "`a\\u{a}\\u{202e}\\u{60}`");
        assert_eq!(quoted(&"x".repeat(500)).chars().count(), 123);
    }

    #[test]
    fn the_hint_stands_on_its_own_line() {
        let error = Error::plan("`x`: rows 0..4, expected at most 3").hint("update the plan");
        assert_eq!(error.to_string(), "`x`: rows 0..4, expected at most 3\nhint: update the plan");
    }
}
