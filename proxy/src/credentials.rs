//! Who may use the proxy.

use base64::{Engine, engine::general_purpose::STANDARD};
use subtle::ConstantTimeEq;

use crate::socks5::Login;

/// A name and a password that every client has to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    name: String,
    password: String,
}

/// Text that is no `NAME:PASSWORD`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// There is no colon, or nothing before it.
    #[error("the credentials are not of the form NAME:PASSWORD")]
    Form,
    /// SOCKS5 can't carry more.
    #[error("the name and the password may have 1 to 255 bytes each")]
    Length,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Credentials {
    /// From `NAME:PASSWORD`. A line's end after it does not count.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn parse(text: &str) -> Result<Self, CredentialsError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let (name, password) = text.split_once(':').ok_or(CredentialsError::Form)?;
        if name.is_empty() || text.contains(['\n', '\r']) {
            return Err(CredentialsError::Form);
        }
        if name.len() > 255 || !(1..=255).contains(&password.len()) {
            return Err(CredentialsError::Length);
        }
        Ok(Self { name: name.into(), password: password.into() })
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The password, for programs that are started to use the proxy.
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Whether a SOCKS5 login has them. Takes the same time for every wrong one of the same length.
    pub fn accepts_login(&self, login: &Login) -> bool {
        self.accepts(&login.name, &login.password)
    }

    /// Whether the value of `Proxy-Authorization` (or of `Authorization`) has them.
    pub fn accepts_header(&self, value: &[u8]) -> bool {
        let Some((scheme, rest)) = value.split_at_checked(6) else { return false };
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return false;
        }
        let Ok(decoded) = STANDARD.decode(rest.trim_ascii()) else { return false };
        let Some(colon) = decoded.iter().position(|byte| *byte == b':') else { return false };
        self.accepts(&decoded[..colon], &decoded[colon + 1..])
    }

    fn accepts(&self, name: &[u8], password: &[u8]) -> bool {
        (self.name.as_bytes().ct_eq(name) & self.password.as_bytes().ct_eq(password)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_may_have_colons_and_is_never_shown() {
        let credentials = Credentials::parse("me:a:b\r\n").unwrap();
        let login = |name: &str, password: &str| Login { name: name.into(), password: password.into() };
        assert!(credentials.accepts_login(&login("me", "a:b")));
        for (name, password) in [("me", "a"), ("m", "a:b"), ("", ""), ("me", "a:b\r\n")] {
            assert!(!credentials.accepts_login(&login(name, password)), "{name}:{password}");
        }
        assert!(!format!("{credentials:?}").contains("a:b"));
    }

    #[test]
    fn a_header_has_to_be_basic_and_right() {
        let credentials = Credentials::parse("me:secret").unwrap();
        let header = |text: &str| format!("Basic {}", STANDARD.encode(text)).into_bytes();
        assert!(credentials.accepts_header(&header("me:secret")));
        assert!(credentials.accepts_header(&[b"bAsIc  ", &header("me:secret")[6..]].concat()));
        for wrong in
            [header("me:secreT"), header("me"), b"Bearer x".to_vec(), b"Basic ?".to_vec(), b"Basi".to_vec()]
        {
            assert!(!credentials.accepts_header(&wrong));
        }
    }

    #[test]
    fn what_is_no_name_and_password_is_refused() {
        assert_eq!(Credentials::parse("me"), Err(CredentialsError::Form));
        assert_eq!(Credentials::parse(":x"), Err(CredentialsError::Form));
        assert_eq!(Credentials::parse("me:x\nyou:y"), Err(CredentialsError::Form));
        assert_eq!(Credentials::parse("me:"), Err(CredentialsError::Length));
        assert_eq!(Credentials::parse(&format!("me:{}", "x".repeat(256))), Err(CredentialsError::Length));
    }
}
