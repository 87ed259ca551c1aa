//! Errors planted on purpose, to see that the tests find a server that breaks its promise.
//!
//! They exist in a build with the feature `failpoints` only, and there each is off unless the variable
//! `FAILPOINT` names it (docs/testing.md).

/// An error that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// A replica decides from memory without a lease.
    NoLease,
    /// A replica acknowledges changes that it has not applied.
    AcknowledgedUnapplied,
    /// A decision from memory panics.
    DecisionPanic,
    /// A replacement stops half-way, for a test that kills the process then.
    HalfReplaced,
}

impl Failpoint {
    /// Every one of them.
    pub const ALL: [Self; 4] =
        [Self::NoLease, Self::AcknowledgedUnapplied, Self::DecisionPanic, Self::HalfReplaced];

    /// As `FAILPOINT` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoLease => "no-lease",
            Self::AcknowledgedUnapplied => "acknowledged-unapplied",
            Self::DecisionPanic => "decision-panic",
            Self::HalfReplaced => "half-replaced",
        }
    }
}

#[cfg(feature = "failpoints")]
static ACTIVE: std::sync::OnceLock<Failpoint> = std::sync::OnceLock::new();

/// Plants the error of that name, for as long as the process lives.
///
/// # Errors
/// A sentence, where there is none of that name.
#[cfg(feature = "failpoints")]
pub fn activate(name: &str) -> Result<(), String> {
    let found = Failpoint::ALL.into_iter().find(|failpoint| failpoint.name() == name);
    let failpoint = found.ok_or_else(|| format!("there is no failpoint {name:?}"))?;
    ACTIVE.set(failpoint).map_err(|_| "a failpoint is active already".to_owned())
}

/// Whether that error is planted: never, in a build without the feature.
#[inline]
pub fn is_active(failpoint: Failpoint) -> bool {
    #[cfg(feature = "failpoints")]
    return ACTIVE.get() == Some(&failpoint);
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = failpoint;
        false
    }
}
