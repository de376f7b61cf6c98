//! The facts that cost something to find, and whether anybody could use them.

/// Which of the costly facts could still make an entry match. A fact that nobody wants is not looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    /// The executable's path on the host.
    pub path: bool,
    /// The digest of the executable's bytes.
    pub sha256: bool,
}

impl Wants {
    /// Nothing is wanted.
    pub const NOTHING: Self = Self { path: false, sha256: false };

    /// Whether anything is wanted.
    #[must_use]
    pub const fn anything(self) -> bool {
        self.path || self.sha256
    }

    /// What either wants.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self { path: self.path || other.path, sha256: self.sha256 || other.sha256 }
    }
}
