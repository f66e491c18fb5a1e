//! The configuration file: a TOML table with the options of the subcommand by their long names.
//!
//! ```toml
//! model = "/models/siglip-so400m-patch14-384"
//! http-port = 9000
//! ```
//!
//! What the file says is put in front of the parser as if it had been typed, for exactly those options that neither
//! the command line nor the environment sets, so that one definition of types, ranges and messages serves all three.
//! The environment, in turn, yields to the command line: a variable is not looked at if its option excludes one that
//! was typed, or is about something that was not asked for.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::Resettable::Reset;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::args::{Cli, TraceArgs};

/// Parses the command line, the environment and the file that `--config` or `SIGLIP_CONFIG` names.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut typed: Vec<OsString> = args.into_iter().collect();
    let mut command = Cli::command();
    // Which options go together, and what is missing, is only known once all three have been asked.
    let alone = |arg: Arg| {
        let required = arg.is_positional() && arg.is_required_set();
        arg.required(required).requires(Reset).conflicts_with(Reset)
    };
    let each_alone = command.clone().mut_subcommands(|sub| sub.mut_args(alone));
    let matches = each_alone.clone().try_get_matches_from(&typed)?;
    if let Some((name, sub_matches)) = matches.subcommand()
        && let Some(sub) = command.find_subcommand(name)
    {
        // With the options of every subcommand, such as --log.
        let sub = command.get_arguments().fold(sub.clone(), Command::arg);
        if let Some(file) = sub_matches.get_one::<PathBuf>("config") {
            let from_file = read(file, &Set { command: &sub, matches: sub_matches });
            typed.extend(from_file.map_err(|message| command.error(ErrorKind::InvalidValue, message))?);
        }
        let matches = each_alone.try_get_matches_from(&typed)?;
        if let Some((name, sub_matches)) = matches.subcommand() {
            let set = Set { command: &sub, matches: sub_matches };
            command = command.mut_subcommand(name, |sub| {
                sub.mut_args(|arg| if set.yields(&arg) { arg.env(Reset) } else { arg })
            });
        }
    }
    Cli::from_arg_matches(&command.try_get_matches_from(typed)?)
}

/// Which of a subcommand's options are set, each looked at by itself.
struct Set<'a> {
    command: &'a Command,
    matches: &'a ArgMatches,
}

impl Set<'_> {
    /// Who sets the option. A flag whose variable says `false` is set to what it is anyway.
    fn source(&self, option: &Arg) -> Option<ValueSource> {
        let id = option.get_id().as_str();
        // Options that every subcommand has are not known to a subcommand by itself.
        self.matches.try_contains_id(id).ok()?;
        self.matches.value_source(id)
    }

    /// Whether the option is set and not a flag that is off.
    fn is_on(&self, option: &Arg) -> bool {
        self.source(option).is_some_and(|source| source != ValueSource::DefaultValue)
            && (takes_value(option) || self.matches.get_flag(option.get_id().as_str()))
    }

    fn is_typed(&self, option: &Arg) -> bool {
        self.source(option) == Some(ValueSource::CommandLine)
    }

    /// The options that exclude this one, or that it excludes.
    fn rivals(&self, option: &Arg) -> Vec<&Arg> {
        let excludes = |one: &Arg, other: &Arg| {
            self.command.get_arg_conflicts_with(one).iter().any(|rival| rival.get_id() == other.get_id())
        };
        self.command
            .get_arguments()
            .filter(|other| excludes(option, other) || excludes(other, option))
            .collect()
    }

    /// Whether the file's value is not needed: the option, or one that excludes it, is set.
    fn wins_over_file(&self, option: &Arg) -> bool {
        matches!(self.source(option), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
            || self.rivals(option).into_iter().any(|rival| self.is_on(rival))
    }

    /// Whether the environment's value is not looked at: the flag is off, an option that excludes this one was typed, or
    /// one that this is about is not set.
    fn yields(&self, option: &Arg) -> bool {
        let is_about_nothing = || {
            option.get_id().as_str().starts_with(TraceArgs::PREFIX)
                && !self.command.get_arguments().any(|arg| arg.get_id() == TraceArgs::FILE && self.is_on(arg))
        };
        let is_excluded = || self.rivals(option).into_iter().any(|rival| self.is_typed(rival));
        self.source(option) == Some(ValueSource::EnvVariable)
            && (!self.is_on(option) || is_excluded() || is_about_nothing())
    }
}

/// The file's values as arguments, those left out that are set already.
fn read(file: &Path, set: &Set<'_>) -> Result<Vec<OsString>, String> {
    let command = set.command;
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("the file {shown} cannot be read: {error}"))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| format!("{shown} is not TOML: {error}"))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let option = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(key) && !["help", "version", "config"].contains(&key.as_str()))
            .ok_or_else(|| unknown(file, key, command))?;
        if set.wins_over_file(option) {
            continue;
        }
        let flag = format!("--{key}");
        match value {
            toml::Value::Boolean(true) if !takes_value(option) => arguments.push(flag.into()),
            toml::Value::Boolean(false) if !takes_value(option) => {}
            toml::Value::Array(values) => {
                for value in values {
                    arguments.push(format!("{flag}={}", scalar(file, key, value)?).into());
                }
            }
            value => arguments.push(format!("{flag}={}", scalar(file, key, value)?).into()),
        }
    }
    Ok(arguments)
}

fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values()
}

fn scalar(file: &Path, key: &str, value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(text) => Ok(text.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(flag) => Ok(flag.to_string()),
        _ => Err(format!("{}: `{key}` must be a string, a number or a boolean", file.display())),
    }
}

fn unknown(file: &Path, key: &str, command: &Command) -> String {
    let known: Vec<&str> = command
        .get_arguments()
        .filter_map(Arg::get_long)
        .filter(|long| !["help", "version", "config"].contains(long))
        .collect();
    format!("{}: unknown key `{key}`; `{}` knows {}", file.display(), command.get_name(), known.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Command, ServeArgs};

    fn serve(file: &str, more: &[&str]) -> Result<ServeArgs, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("siglip.toml");
        std::fs::write(&path, file).unwrap();
        let typed = ["siglip", "serve", "--config", path.to_str().unwrap()];
        let all = typed.iter().chain(more).map(OsString::from);
        match parse(all).map_err(|error| error.to_string())?.command {
            Command::Serve(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_file_sets_what_the_command_line_does_not() {
        let args =
            serve("model = 'm'\nhttp-port = 9000\nmax-batch-size = 8", &["--http-port", "9001"]).unwrap();
        assert_eq!((args.http_port, args.max_batch_size, args.grpc_port), (9001, 8, 8001));
        assert_eq!(args.model.model, [PathBuf::from("m")]);
    }

    #[test]
    fn a_flag_in_the_file_yields_to_its_opposite_on_the_command_line() {
        assert!(serve("demo = true", &[]).unwrap().model.demo);
        assert!(!serve("demo = false", &[]).unwrap().model.demo);
        let args = serve("demo = true", &["--model", "m"]).unwrap();
        assert!(!args.model.demo && args.model.model == [PathBuf::from("m")]);
    }

    #[test]
    fn every_option_is_a_key() {
        let program = Cli::command();
        for command in program.get_subcommands() {
            for arg in command.get_arguments().chain(program.get_arguments()) {
                let Some(long) = arg.get_long().filter(|long| !["help", "version", "config"].contains(long))
                else {
                    continue;
                };
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), format!("{long} = {{}}")).unwrap();
                let mut typed = vec!["siglip", command.get_name(), "--config", file.path().to_str().unwrap()];
                typed.extend((command.get_name() == "fetch").then_some("org/model"));
                // A table is no option's value, which is only found out of a key that is known.
                let error = parse(typed.into_iter().map(OsString::from)).unwrap_err().to_string();
                assert!(error.contains(&format!("`{long}` must be a string")), "{error}");
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "log = 'debug'").unwrap();
        let cli = |more: &[&str]| {
            let typed = ["siglip", "doctor", "--config", file.path().to_str().unwrap()];
            parse(typed.iter().chain(more).map(OsString::from)).unwrap()
        };
        assert_eq!((cli(&[]).log.as_str(), cli(&["--log", "warn"]).log.as_str()), ("debug", "warn"));
    }

    #[test]
    fn wrong_keys_values_and_files_are_named() {
        assert!(serve("port = 1", &[]).unwrap_err().contains("unknown key `port`"));
        assert!(serve("http-port = 70000", &[]).unwrap_err().contains("70000"));
        assert!(serve("http-port = {}", &[]).unwrap_err().contains("`http-port` must be"));
        assert!(serve("= 1", &[]).unwrap_err().contains("is not TOML"));
        let twice = serve("host = '::1'\nlog = 'info'\nhost = '::1'", &[]).unwrap_err();
        assert!(twice.contains("duplicate key") && twice.contains("line 3"), "{twice}");
        let missing = parse(["siglip", "serve", "--config", "no-such-file"].map(OsString::from));
        assert!(missing.unwrap_err().to_string().contains("no-such-file"));
    }
}
