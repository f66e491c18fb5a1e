//! How to reach the Hub, from the environment variables of Python's `huggingface_hub`.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::HubError;

/// Where the Hub and its cache are, and how patient to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// The cache: the folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// The user's token.
    pub token: Option<Token>,
    /// Whether the network must not be used.
    pub offline: bool,
    /// Connections that fetch parts of one file at the same time.
    pub connections: usize,
    /// Bytes of one such part at most: what an interrupted fetch may lose of each connection.
    pub part: u64,
    /// When to give up.
    pub patience: Patience,
}

/// When to give up.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Failed attempts in a row, none of which brought a byte.
    pub attempts: u32,
    /// The pause after the first of them; it doubles with each.
    pub pause: Duration,
    /// How long a server may take to accept a connection.
    pub connect: Duration,
    /// How long it may be silent.
    pub silence: Duration,
}

/// A user's token. It is not shown by `Debug`.
#[derive(Clone)]
pub struct Token(String);

impl Settings {
    /// The Hub that is meant when no other is named.
    pub const ENDPOINT: &'static str = "https://huggingface.co";

    /// The settings that the environment asks for: `HF_ENDPOINT`, `HF_HUB_CACHE` or `HF_HOME`, `HF_TOKEN` or the file
    /// `$HF_HOME/token` (`HF_TOKEN_PATH`), and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    ///
    /// [`HubError::NoCache`], if nothing says where the cache is; [`HubError::Io`], if the token's file cannot be read.
    pub fn from_env() -> Result<Settings, HubError> {
        Self::from_variables(|name| env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Result<Settings, HubError> {
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let user = variable("HOME").map(PathBuf::from);
        let path = |name| variable(name).map(|value| expand(Path::new(&value), user.as_deref()));
        let home = path("HF_HOME")
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
            .or_else(|| user.as_ref().map(|user| user.join(".cache/huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| home.as_ref().map(|home| home.join("hub"))).ok_or(HubError::NoCache)?;

        let token_file = path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        let token = match text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")) {
            Some(token) => Token::new(&token),
            None => token_file.map(|file| read_token(&file)).transpose()?.flatten(),
        };
        let is_true = |name| {
            text(name)
                .is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
        };
        Ok(Settings {
            endpoint: text("HF_ENDPOINT")
                .unwrap_or(Self::ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache,
            token,
            offline: is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE"),
            connections: 4,
            part: 16 << 20,
            patience: Patience::default(),
        })
    }
}

impl Default for Patience {
    /// About 8 seconds without a network, half a minute of a server's silence.
    fn default() -> Self {
        Patience {
            attempts: 5,
            pause: Duration::from_millis(500),
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

impl Token {
    /// The token in this text, without the white space around it; none, if nothing is left.
    pub fn new(text: &str) -> Option<Token> {
        let token = text.trim();
        (!token.is_empty()).then(|| Token(token.to_owned()))
    }

    /// The header that shows it.
    pub(super) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Python's tools write `~` into these variables themselves, where no shell has replaced it.
fn expand(path: &Path, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path.to_owned(),
    }
}

fn read_token(file: &Path) -> Result<Option<Token>, HubError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Token::new(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HubError::Io { path: file.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        Settings::from_variables(find).unwrap()
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables| settings(variables).cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "~/hf")]), Path::new("/u/hf/hub"));
        assert_eq!(cache(&[("HF_HOME", "/hf"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert!(matches!(Settings::from_variables(|_| None), Err(HubError::NoCache)));
    }

    #[test]
    fn the_token_comes_from_the_variable_or_else_the_file() {
        let dir = env::temp_dir().join(format!("siglip-token-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("token"), "hf_file\n").unwrap();
        let home = dir.to_str().unwrap();
        let bearer = |variables: &[_]| settings(variables).token.map(|token| token.bearer());
        assert_eq!(bearer(&[("HF_HOME", home)]), Some("Bearer hf_file".to_owned()));
        assert_eq!(bearer(&[("HF_HOME", home), ("HF_TOKEN", "hf_x")]), Some("Bearer hf_x".to_owned()));
        assert_eq!(bearer(&[("HF_HOME", "/nowhere")]), None);
        assert!(!format!("{:?}", settings(&[("HF_HOME", home)])).contains("hf_file"));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_endpoint_and_the_offline_switch() {
        let plain = settings(&[("HOME", "/u")]);
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        let set = settings(&[("HOME", "/u"), ("HF_ENDPOINT", "http://mirror/"), ("HF_HUB_OFFLINE", "true")]);
        assert_eq!((set.endpoint.as_str(), set.offline), ("http://mirror", true));
        assert!(!settings(&[("HOME", "/u"), ("HF_HUB_OFFLINE", "0")]).offline);
    }
}
