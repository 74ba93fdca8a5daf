//! Names that are like a mistyped one.

use super::user::User;

/// The number of names to propose.
const PROPOSALS: usize = 3;

/// Shorter and shorter beginnings of a name, down to the empty one, to search for accounts.
pub fn beginnings(typed: &str) -> impl Iterator<Item = String> {
    let symbols: Vec<char> = typed.chars().collect();
    let lengths = std::iter::successors(Some(symbols.len()), |length| (*length > 0).then(|| length * 2 / 3));
    lengths.map(move |length| symbols.iter().take(length).collect())
}

/// Returns the usernames of those accounts whose username, address or name is like `typed`, the most similar first.
pub fn nearest(typed: &str, users: &[User]) -> Vec<String> {
    let texts = |user: &User| {
        let name = user.display_name.as_ref().map(|name| name.to_string().to_lowercase()).unwrap_or_default();
        let email = user.email.as_ref().map(|email| email.key().to_owned());
        name.split_whitespace().map(str::to_owned).chain([user.username.to_string()]).chain(email).collect()
    };
    nearest_of(typed, users.iter().map(|user| (user.username.as_str(), texts(user))))
}

fn nearest_of<'a>(typed: &str, users: impl Iterator<Item = (&'a str, Vec<String>)>) -> Vec<String> {
    let typed = typed.to_lowercase();
    let most = (typed.chars().count() / 3).max(1);
    let distance = |texts: &[String]| texts.iter().map(|text| apart(&typed, text)).min().unwrap_or(usize::MAX);
    let mut near: Vec<(usize, &str)> = users
        .map(|(name, texts)| (distance(&texts), name))
        .filter(|(distance, name)| *distance <= most && *name != typed)
        .collect();
    near.sort_unstable();
    near.into_iter().take(PROPOSALS).map(|(_, name)| name.to_owned()).collect()
}

/// The number of typing errors between two texts. The beginning of a text is one error away from it.
fn apart(typed: &str, text: &str) -> usize {
    let length = typed.chars().count();
    let beginnings = [length.saturating_sub(1), length, length + 1].map(|length| text.chars().take(length).collect());
    let to_beginning = beginnings.iter().map(|beginning: &String| 1 + strsim::osa_distance(typed, beginning));
    to_beginning.chain([strsim::osa_distance(typed, text)]).min().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_get_shorter() {
        assert_eq!(beginnings("grcae").collect::<Vec<_>>(), ["grcae", "grc", "gr", "g", ""]);
        assert_eq!(beginnings("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn the_nearest_names_come_first_and_the_typed_one_never() {
        let people = [("grace", "grace hopper"), ("gracie", ""), ("alan", "alan turing"), ("grcae", "")];
        let of = |typed: &str| {
            let users = people.iter().map(|(username, name)| {
                let words = name.split_whitespace().chain([*username]).map(str::to_owned).collect();
                (*username, words)
            });
            nearest_of(typed, users)
        };
        assert_eq!(of("grcae"), ["grace"]);
        assert_eq!(of("Grac"), ["grace", "gracie"]);
        assert_eq!(of("hoper"), ["grace"]);
        assert_eq!(of("turing"), ["alan"]);
        assert!(of("mallory").is_empty());
        let long = "maximiliana.wintersberger-oeztuerk";
        assert_eq!(nearest_of("maximilana.wintersberger", [(long, vec![long.to_owned()])].into_iter()), [long]);
    }
}
