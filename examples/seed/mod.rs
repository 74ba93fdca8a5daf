//! Made-up users, for benchmarks and demonstrations: the same ones for the same seed, however many are asked for.
//!
//! The store writes them, not calls: a million hashes would take hours. All of them have one password.

use std::time::Duration;

use latchkey::crypto::{Hasher, HasherSettings, Priority};
use latchkey::domain::credentials::{Credentials, UserWithCredentials};
use latchkey::domain::email::EmailAddress;
use latchkey::domain::id::UserId;
use latchkey::domain::lockout::{Lock, LockCause, ThrottleRules};
use latchkey::domain::password::PlainPassword;
use latchkey::domain::password_hash::PasswordHash;
use latchkey::domain::profile::{DisplayName, Labels, Locale};
use latchkey::domain::role::Role;
use latchkey::domain::time::Timestamp;
use latchkey::domain::user::{Password, PasswordKind, User, UserKind};
use latchkey::domain::username::Username;
use latchkey::environment::Environment;
use latchkey::error::{Error, Result};
use latchkey::store::Store;
use latchkey::store::throttle::{Account, Budgets, Name, throttle_failed, throttle_reserve};
use latchkey::store::users::user_insert_many;

/// The password of everybody.
pub(crate) const PASSWORD: &str = "every made-up user has this one";

/// Users in one transaction: enough that the commit costs nothing beside them, few enough to be seen moving on.
const BATCH: u64 = 20_000;

const DAY: Duration = Duration::from_hours(24);

/// Which users.
#[derive(Debug, Clone)]
pub(crate) struct Seed {
    /// How many.
    pub(crate) users: u64,
    /// The same number makes the same users.
    pub(crate) number: u64,
    /// The instant that ages and waits count from.
    pub(crate) now: Timestamp,
    /// The hash of [`PASSWORD`].
    hash: PasswordHash,
}

impl Seed {
    /// Hashes the password once, as a server with these settings would.
    pub(crate) async fn prepare(
        users: u64,
        number: u64,
        settings: HasherSettings,
        environment: &Environment,
    ) -> Result<Seed> {
        let hasher = Hasher::start(settings, environment.clone(), std::sync::Arc::default())?;
        let password = PlainPassword::parse(PASSWORD.to_owned()).map_err(|_| Error::internal("the password"))?;
        let hash = hasher.hash(&hasher.admit(Priority::Operator)?, password).await?;
        Ok(Seed { users, number, now: environment.now(), hash })
    }

    /// Adds the users to an empty database, and tells `progress` how many there are.
    pub(crate) async fn fill(&self, store: &Store, mut progress: impl FnMut(u64)) -> Result<()> {
        store.expect_bulk().await?;
        let mut written = 0;
        while written < self.users {
            let end = self.users.min(written + BATCH);
            let users = (written..end).map(|n| self.user(n)).collect::<Result<Vec<_>>>()?;
            let tx = store.begin_long().await?.writable();
            user_insert_many(&tx, &users).await?;
            tx.commit().await?;
            let throttled = (written..end).zip(&users).filter(|(n, _)| self.is_throttled(*n));
            let budgets = |account: Account| Budgets { account, name: Name::Username, is_familiar: false };
            let throttled: Vec<_> = throttled.map(|(_, account)| budgets(Account::Known(account.user.id))).collect();
            for budgets in &throttled {
                throttle_reserve(store.autocommit()?, budgets, &ONE_WRONG, self.now).await?;
            }
            let tx = store.begin_long().await?.writable();
            for budgets in &throttled {
                throttle_failed(&tx, budgets, false, &ONE_WRONG, self.now).await?;
            }
            tx.commit().await?;
            written = end;
            progress(written);
        }
        Ok(())
    }

    /// The username of user `n`.
    pub(crate) fn username(&self, n: u64) -> String {
        self.name(n).0
    }

    fn dice(&self, n: u64, purpose: u64) -> Dice {
        Dice(self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ n.wrapping_mul(8) ^ purpose.wrapping_mul(0xd1b5_4a32))
    }

    /// Username, and the name behind it.
    fn name(&self, n: u64) -> (String, String) {
        let mut dice = self.dice(n, 1);
        if self.fate(n) == Fate::Service {
            let service = dice.word(SERVICES);
            return (format!("svc-{service}-{n}"), format!("Service {service} {n}"));
        }
        let (first, last) = (dice.word(FIRST_NAMES), dice.word(LAST_NAMES));
        let username = format!("{first}.{last}{n}").to_lowercase();
        (username, format!("{first} {last}"))
    }

    pub(crate) fn fate(&self, n: u64) -> Fate {
        match self.dice(n, 2).below(1000) {
            0..10 => Fate::Service,
            10..30 => Fate::Pending,
            30..40 => Fate::Locked,
            40..55 => Fate::Temporary(PasswordKind::Generated),
            55..60 => Fate::Temporary(PasswordKind::Chosen),
            60..70 => Fate::MustChange,
            _ => Fate::Ordinary,
        }
    }

    /// One of two thousand.
    pub(crate) fn is_throttled(&self, n: u64) -> bool {
        self.fate(n) != Fate::Service && self.dice(n, 3).below(2000) == 0
    }

    fn user(&self, n: u64) -> Result<UserWithCredentials> {
        let made = |_| Error::internal("a made-up value is refused");
        let fate = self.fate(n);
        let mut dice = self.dice(n, 4);
        let (username, display_name) = self.name(n);
        let email = format!("{username}@{}", dice.word(DOMAINS));
        let age = Duration::from_secs(dice.below(3 * 365 * 86_400));
        let created_at = self.now.saturating_sub(age);
        let is_new = matches!(fate, Fate::Service | Fate::Pending | Fate::Temporary(_)) || dice.below(10) == 0;
        let last_sign_in = self.now.saturating_sub(age.min(Duration::from_secs(dice.below(90 * 86_400))));
        let role = if dice.below(500) == 0 { dice.one_of(ROLES) } else { None };
        let labels = (dice.below(4) == 0).then(|| ("team".to_owned(), dice.word(SERVICES).to_owned()));
        let id = UserId::from_bytes(dice.bytes());
        let password = self.password(fate, created_at, &mut dice);
        let credentials = Credentials { password: password.as_ref().map(|_| self.hash.clone()) };
        let user = User {
            id,
            kind: if fate == Fate::Service { UserKind::Service } else { UserKind::Person },
            username: Username::parse(&username).map_err(|_| Error::internal("a made-up username is refused"))?,
            email: EmailAddress::parse_optional(&email).map_err(|_| Error::internal("a made-up address is refused"))?,
            display_name: DisplayName::parse(&display_name).map_err(made)?,
            locale: Locale::parse(dice.word(LOCALES)).map_err(|_| Error::internal("a made-up locale is refused"))?,
            external_id: None,
            labels: Labels::parse(labels).map_err(|_| Error::internal("a made-up label is refused"))?,
            roles: role.into_iter().collect(),
            password,
            password_ended_at: None,
            change_required: fate == Fate::MustChange,
            password_flaw: None,
            stored_lock: (fate == Fate::Locked).then(|| self.lock(&mut dice)),
            stored_throttle: None,
            version: 1,
            created_at,
            updated_at: created_at,
            devices_valid_after: None,
            email_verified_at: (!is_new).then_some(last_sign_in),
            active_from: None,
            stored_link: None,
            mail_failed_at: None,
            second_factor: None,
            policy: latchkey::domain::user_policy::UserPolicy::default(),
            last_sign_in_at: (!is_new).then_some(last_sign_in),
        };
        Ok(UserWithCredentials { user, credentials, ended_password: None })
    }

    fn password(&self, fate: Fate, created_at: Timestamp, dice: &mut Dice) -> Option<Password> {
        let (kind, expires_at) = match fate {
            Fate::Service | Fate::Pending => return None,
            // From expired two days ago to good for five more.
            Fate::Temporary(kind) => {
                let days = Duration::from_secs(dice.below(7 * 86_400));
                (kind, Some(self.now.saturating_sub(2 * DAY).saturating_add(days)))
            }
            _ => (PasswordKind::Lasting, None),
        };
        Some(Password::new(self.hash.method(), kind, created_at, expires_at))
    }

    /// Half of the locks have an end, and a few of those are over.
    fn lock(&self, dice: &mut Dice) -> Lock {
        let end = self.now.saturating_sub(2 * DAY).saturating_add(Duration::from_secs(dice.below(30 * 86_400)));
        let cause = if dice.below(4) == 0 { LockCause::FailedSignIns } else { LockCause::Operator };
        Lock {
            cause,
            note: "made up".to_owned(),
            locked_at: self.now.saturating_sub(3 * DAY),
            expires_at: (dice.below(2) == 0).then_some(end),
            actor_id: String::new(),
            actor_name: String::new(),
        }
    }
}

/// What somebody's account is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Ordinary,
    Service,
    Pending,
    Locked,
    Temporary(PasswordKind),
    MustChange,
}

/// One wrong password leads to a wait that outlasts any benchmark.
const ONE_WRONG: ThrottleRules = ThrottleRules {
    threshold: 1,
    initial: Duration::from_hours(30 * 24),
    max: Duration::from_hours(30 * 24),
    lockout_threshold: 0,
    lockout_duration: Duration::ZERO,
    failure_memory: DAY,
};

/// `SplitMix64` (Steele, Lea and Flood, 2014): numbers that look random and are the same everywhere. Not for secrets.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Under `bound`, which is small: the bias does not matter.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> Option<T> {
        let index = usize::try_from(self.below(choices.len() as u64)).ok()?;
        choices.get(index).copied()
    }

    fn word(&mut self, choices: &[&'static str]) -> &'static str {
        self.one_of(choices).unwrap_or_default()
    }

    fn bytes(&mut self) -> [u8; 16] {
        (u128::from(self.next()) << 64 | u128::from(self.next())).to_be_bytes()
    }
}

const ROLES: &[Role] = &[Role::Auditor, Role::Helpdesk, Role::Operator, Role::Viewer];

const DOMAINS: &[&str] = &["example.com", "example.net", "example.org", "mail.example.com"];

const LOCALES: &[&str] = &["en-GB", "en-US", "de-DE", "fr-FR", "pt-BR", "ja-JP", "ar-EG", "hi-IN", ""];

const SERVICES: &[&str] = &["billing", "catalogue", "delivery", "mail", "payments", "reports", "search", "stock"];

const FIRST_NAMES: &[&str] = &[
    "Aaliyah",
    "Abebe",
    "Ada",
    "Ahmed",
    "Aiko",
    "Aisha",
    "Alan",
    "Alejandro",
    "Amara",
    "Ana",
    "Anders",
    "Anil",
    "Astrid",
    "Ayse",
    "Bao",
    "Barbara",
    "Beatriz",
    "Bjorn",
    "Camille",
    "Carlos",
    "Chen",
    "Chidi",
    "Chloe",
    "Claire",
    "Dagmar",
    "David",
    "Diego",
    "Dmitri",
    "Edsger",
    "Ekaterina",
    "Elif",
    "Emeka",
    "Emma",
    "Esther",
    "Fatima",
    "Felix",
    "Frances",
    "Gabriel",
    "Giulia",
    "Grace",
    "Hana",
    "Hassan",
    "Hiroshi",
    "Ibrahim",
    "Ines",
    "Ingrid",
    "Isaac",
    "Ivan",
    "Jamal",
    "Jana",
    "Jin",
    "Joao",
    "Jonas",
    "Juliette",
    "Kamala",
    "Karim",
    "Katarzyna",
    "Kenji",
    "Kofi",
    "Lars",
    "Leila",
    "Liam",
    "Lin",
    "Lucia",
    "Magnus",
    "Malik",
    "Margaret",
    "Maria",
    "Mateo",
    "Mei",
    "Mohammed",
    "Nadia",
    "Ngozi",
    "Nia",
    "Noah",
    "Oksana",
    "Olga",
    "Omar",
    "Oscar",
    "Paolo",
    "Pedro",
    "Priya",
    "Quentin",
    "Rahul",
    "Rosa",
    "Salma",
    "Samuel",
    "Sofia",
    "Sven",
    "Tariq",
    "Thandi",
    "Tomas",
    "Ursula",
    "Valeria",
    "Wanjiru",
    "Wei",
    "Xenia",
    "Yara",
    "Yusuf",
    "Zofia",
];

const LAST_NAMES: &[&str] = &[
    "Abara",
    "Adeyemi",
    "Ali",
    "Andersson",
    "Bakker",
    "Banerjee",
    "Barros",
    "Becker",
    "Bianchi",
    "Brown",
    "Carvalho",
    "Castillo",
    "Chatterjee",
    "Choi",
    "Cohen",
    "Costa",
    "Dahl",
    "Das",
    "Diallo",
    "Dubois",
    "Eriksen",
    "Evans",
    "Fernandez",
    "Fischer",
    "Fujita",
    "Garcia",
    "Gonzalez",
    "Gupta",
    "Haddad",
    "Hansen",
    "Hernandez",
    "Hoang",
    "Hopper",
    "Ivanova",
    "Jansen",
    "Johnson",
    "Jones",
    "Kamau",
    "Kapoor",
    "Khan",
    "Kim",
    "Kowalski",
    "Kumar",
    "Lefevre",
    "Levi",
    "Lindqvist",
    "Liskov",
    "Lovelace",
    "Lopez",
    "Malik",
    "Martin",
    "Mbeki",
    "Medina",
    "Meyer",
    "Mwangi",
    "Nakamura",
    "Nguyen",
    "Nielsen",
    "Novak",
    "Nowak",
    "Okafor",
    "Oliveira",
    "Olsen",
    "Ortiz",
    "Park",
    "Patel",
    "Pereira",
    "Petrov",
    "Pham",
    "Popescu",
    "Qureshi",
    "Ramirez",
    "Reddy",
    "Rossi",
    "Russo",
    "Sanchez",
    "Santos",
    "Sato",
    "Schmidt",
    "Shah",
    "Silva",
    "Singh",
    "Smith",
    "Sokolov",
    "Suzuki",
    "Tanaka",
    "Tesfaye",
    "Toure",
    "Tran",
    "Turing",
    "Ueda",
    "Vargas",
    "Wagner",
    "Wang",
    "Weber",
    "Williams",
    "Yamamoto",
    "Yilmaz",
    "Zhang",
    "Zhou",
];
