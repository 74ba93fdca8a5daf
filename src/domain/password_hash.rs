//! Hashes of passwords, as PHC strings.

use std::fmt;

/// The hash of a password, as a PHC string: `$argon2id$v=19$m=65536,t=3,p=1$SALT$HASH`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Takes the string as it is stored; the hasher judges it at use.
    pub fn new(phc: String) -> PasswordHash {
        PasswordHash(phc)
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the salt.
    pub fn method(&self) -> HashMethod {
        match self.0.split('$').collect::<Vec<_>>().as_slice() {
            [empty, algorithm, version, params, _salt, _hash] => {
                HashMethod([*empty, algorithm, version, params].join("$"))
            }
            // Of any other form only the algorithm is known not to be a secret.
            [_, algorithm, ..] => HashMethod(format!("${algorithm}")),
            _ => HashMethod(String::new()),
        }
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash([redacted])")
    }
}

/// Algorithm, version and cost of a hash, as the beginning of a PHC string: `$argon2id$v=19$m=65536,t=3,p=1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashMethod(String);

impl HashMethod {
    /// The name of the algorithm.
    pub fn algorithm(&self) -> &str {
        self.0.split('$').nth(1).unwrap_or_default()
    }

    /// The text, which is a PHC string without salt and hash.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_has_neither_salt_nor_hash() {
        let hash = PasswordHash::new("$argon2id$v=19$m=64,t=1,p=1$c2FsdA$aGFzaA".to_owned());
        assert_eq!(hash.method().as_str(), "$argon2id$v=19$m=64,t=1,p=1");
        assert_eq!(hash.method().algorithm(), "argon2id");
        for (other, method) in
            [("$2b$12$c2FsdGFuZGhhc2g", "$2b"), ("$argon2id$m=64,t=1,p=1$c2FsdA$aGFzaA", "$argon2id"), ("x", "")]
        {
            assert_eq!(PasswordHash::new(other.to_owned()).method().as_str(), method);
        }
    }
}
