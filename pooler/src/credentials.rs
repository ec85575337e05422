//! What logins need and what they leave behind: verifiers derived from passwords, secrets that `auth_query` found, and the
//! SCRAM keys of clients, with which we log in to servers as them without having known their passwords.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use sluice_wire::auth::{MockKey, ScramKeys, ScramVerifier, Secret, ServerSecret};
use tokio::sync::Semaphore;

use crate::config::{Config, Database};
use crate::lock::lock;

/// PostgreSQL's own iteration count: what strangers are told until `auth_query` has found somebody.
const USUAL_ITERATIONS: u32 = 4096;

/// How many logins ask LDAP servers at the same time; more of them wait.
const MOST_QUESTIONS: usize = 16;

/// See the head of the file.
pub struct Credentials {
    /// What the salts of users who don't exist are derived from.
    pub mock_key: MockKey,
    /// By database entry and user: one user may have other secrets on other clusters.
    learned: Mutex<HashMap<(String, String), Learned>>,
    /// Verifiers derived from plain passwords, by user.
    verifiers: Mutex<HashMap<String, Derived>>,
    /// Iterations of the verifier that `auth_query` found last; 0 if what it found is no verifier.
    queried_iterations: AtomicU32,
    /// Permission to spend milliseconds on hashing: never on all cores at once.
    hashing: Semaphore,
    /// Permission to ask a server that isn't PostgreSQL.
    asking: Semaphore,
}

/// What a user's last login to a database entry left.
#[derive(Clone, Default, PartialEq, Eq)]
struct Learned {
    /// `None`: the user is in `auth_file`.
    secret: Option<Secret>,
    keys: Option<ScramKeys>,
}

struct Derived {
    password: String,
    iterations: u32,
    verifier: Secret,
}

impl Default for Credentials {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            mock_key: rand::random(),
            learned: Mutex::default(),
            verifiers: Mutex::default(),
            queried_iterations: AtomicU32::new(USUAL_ITERATIONS),
            hashing: Semaphore::new((cores / 2).max(1)),
            asking: Semaphore::new(MOST_QUESTIONS),
        }
    }
}

impl Credentials {
    /// A login succeeded. `secret` is one that isn't in `auth_file`.
    pub fn remember(&self, database: &str, user: &str, secret: Option<Secret>, keys: Option<ScramKeys>) {
        lock(&self.learned).insert((database.to_owned(), user.to_owned()), Learned { secret, keys });
    }

    /// The entry is gone, and with it what is known of its users.
    pub fn forget_database(&self, database: &str) {
        lock(&self.learned).retain(|(known, _), _| known != database);
    }

    /// What servers of an entry are logged in to with.
    pub fn server_secret(&self, config: &Config, database: &Database, user: &str) -> ServerSecret {
        if let (Some(forced), Some(password)) = (&database.user, &database.password)
            && forced == user
        {
            return ServerSecret::new(Some(&Secret::Plain(password.clone())), None);
        }
        let learned = lock(&self.learned);
        let learned = learned.get(&(database.name.clone(), user.to_owned()));
        let queried = learned.and_then(|learned| learned.secret.as_ref());
        let keys = learned.and_then(|learned| learned.keys.as_ref());
        ServerSecret::new(queried.or_else(|| config.secrets.get(user)), keys)
    }

    /// The SCRAM verifier of a plain password, derived once: deriving takes thousands of hashes.
    pub async fn derived_verifier(&self, user: &str, password: &str, iterations: u32) -> Secret {
        if let Some(known) = lock(&self.verifiers).get(user)
            && known.password == password
            && known.iterations == iterations
        {
            return known.verifier.clone();
        }
        let secret = password.to_owned();
        let derive = move || ScramVerifier::derive(secret.as_bytes(), &rand::random::<[u8; 16]>(), iterations);
        let verifier = Secret::Scram(self.hash(derive).await);
        let derived = Derived { password: password.to_owned(), iterations, verifier: verifier.clone() };
        lock(&self.verifiers).insert(user.to_owned(), derived);
        verifier
    }

    /// Runs something that takes milliseconds of CPU on another thread, so that no query waits for it. A storm of logins
    /// queues up here.
    ///
    /// # Panics
    /// If `work` does.
    pub async fn hash<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.hashing.acquire().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    /// Waits for `question`, one of a few that are asked elsewhere at the same time.
    pub async fn one_of_few<T>(&self, question: impl Future<Output = T>) -> T {
        let _permit = self.asking.acquire().await;
        question.await
    }

    /// Notes what kind of secret `auth_query` finds.
    pub fn note_queried(&self, secret: &Secret) {
        let iterations = if let Secret::Scram(verifier) = secret { verifier.iterations() } else { 0 };
        self.queried_iterations.store(iterations, Ordering::Relaxed);
    }

    /// A secret that nothing fits, for a user who isn't there (or has none): of the kind that users who are there have, so
    /// that the exchange looks the same. `is_queried`: those come from `auth_query`.
    pub fn mock(&self, config: &Config, user: &str, is_queried: bool) -> Secret {
        let usual = if is_queried {
            Some(self.queried_iterations.load(Ordering::Relaxed)).filter(|&iterations| iterations > 0)
        } else {
            config.usual_scram_iterations
        };
        match usual {
            Some(iterations) => Secret::Scram(ScramVerifier::mock(&self.mock_key, user, iterations)),
            None => Secret::random(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::parse_str("[pgbouncer]\n[databases]\na = user=bob password=pw\nb =\n").unwrap()
    }

    fn plain(password: &str) -> Secret {
        Secret::Plain(password.into())
    }

    #[test]
    fn servers_get_the_secret_of_their_own_user_and_entry() {
        let (config, credentials) = (config(), Credentials::default());
        let secret = |database: &str, user| credentials.server_secret(&config, &config.databases[database], user);
        credentials.remember("b", "ann", Some(plain("anns")), None);
        assert_eq!(secret("a", "bob"), ServerSecret::Plain("pw".into()));
        // auth_user's servers of an entry with a forced user don't get that one's password.
        assert_eq!(secret("a", "pooler"), ServerSecret::None);
        assert_eq!(secret("b", "ann"), ServerSecret::Plain("anns".into()));
        assert_eq!(secret("a", "ann"), ServerSecret::None);
        credentials.forget_database("b");
        assert_eq!(secret("b", "ann"), ServerSecret::None);
    }

    #[tokio::test]
    async fn a_verifier_is_derived_once_for_a_password() {
        let credentials = Credentials::default();
        let first = credentials.derived_verifier("ann", "x", 7).await;
        assert_eq!(credentials.derived_verifier("ann", "x", 7).await, first);
        assert_ne!(credentials.derived_verifier("ann", "x", 8).await, first);
        assert_ne!(credentials.derived_verifier("ann", "y", 8).await, first);
    }

    #[test]
    fn strangers_look_like_those_who_are_known() {
        let (config, credentials) = (config(), Credentials::default());
        let kind = |is_queried| match credentials.mock(&config, "nobody", is_queried) {
            Secret::Scram(verifier) => Some(verifier.iterations()),
            _ => None,
        };
        assert_eq!((kind(true), kind(false)), (Some(4096), None));
        credentials.note_queried(&Secret::Scram(ScramVerifier::derive(b"x", b"s", 9)));
        assert_eq!(kind(true), Some(9));
        assert_eq!(credentials.mock(&config, "a", true), credentials.mock(&config, "a", true), "as often as one asks");
        credentials.note_queried(&Secret::parse("md59d792a3a8853c2411afb9163d088c036"));
        assert_eq!(kind(true), None);
    }
}
