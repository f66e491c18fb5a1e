//! The configuration file: a TOML table with the options of the subcommand by their long names.
//!
//! ```toml
//! model = "/models/siglip-so400m-patch14-384"
//! http-port = 9000
//! ```
//!
//! What the file says is put in front of the parser as if it had been typed, for exactly those options that neither
//! the command line nor the environment sets, so that one definition of types, ranges and messages serves all three.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::args::Cli;

/// Parses the command line, the environment and the file that `--config` or `SIGLIP_CONFIG` names.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut typed: Vec<OsString> = args.into_iter().collect();
    let mut command = Cli::command();
    // A file may set an option that is required, so what is missing is only known after it was read.
    let optional = |arg: Arg| if arg.is_positional() { arg } else { arg.required(false) };
    let first = command.clone().mut_subcommands(|sub| sub.mut_args(optional));
    let matches = first.ignore_errors(false).try_get_matches_from(&typed)?;

    let file = matches.subcommand().and_then(|(_, sub)| sub.get_one::<PathBuf>("config"));
    if let (Some(file), Some((name, sub_matches))) = (file.cloned(), matches.subcommand()) {
        let sub = match command.find_subcommand(name) {
            Some(sub) => sub.clone(),
            None => {
                return Err(command.error(ErrorKind::InvalidSubcommand, format!("no subcommand `{name}`")));
            }
        };
        let from_file = read(&file, &sub, sub_matches)
            .map_err(|message| command.error(ErrorKind::InvalidValue, message))?;
        typed.extend(from_file);
    }
    Cli::from_arg_matches(&command.try_get_matches_from(typed)?)
}

/// The file's values as arguments, those left out that are set already.
fn read(file: &Path, command: &Command, matches: &ArgMatches) -> Result<Vec<OsString>, String> {
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("the file {shown} cannot be read: {error}"))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| format!("{shown} is not TOML: {}", error.message()))?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let option = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(key) && !["help", "version", "config"].contains(&key.as_str()))
            .ok_or_else(|| unknown(file, key, command))?;
        if is_set(matches, option, command) {
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

/// Whether the option, or one that excludes it, is set on the command line or in the environment.
fn is_set(matches: &ArgMatches, option: &Arg, command: &Command) -> bool {
    let set = |id: &str| {
        matches.try_contains_id(id).is_ok()
            && matches!(matches.value_source(id), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
    };
    let rivals = command.get_arg_conflicts_with(option);
    let excluded_by = command.get_arguments().filter(|arg| {
        command.get_arg_conflicts_with(arg).iter().any(|rival| rival.get_id() == option.get_id())
    });
    set(option.get_id().as_str())
        || rivals.into_iter().chain(excluded_by).any(|rival| set(rival.get_id().as_str()))
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
    fn wrong_keys_values_and_files_are_named() {
        assert!(serve("port = 1", &[]).unwrap_err().contains("unknown key `port`"));
        assert!(serve("http-port = 70000", &[]).unwrap_err().contains("70000"));
        assert!(serve("http-port = {}", &[]).unwrap_err().contains("`http-port` must be"));
        assert!(serve("= 1", &[]).unwrap_err().contains("is not TOML"));
        let missing = parse(["siglip", "serve", "--config", "no-such-file"].map(OsString::from));
        assert!(missing.unwrap_err().to_string().contains("no-such-file"));
    }
}
