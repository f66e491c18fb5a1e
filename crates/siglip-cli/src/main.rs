//! The program `siglip`: SigLIP embeddings from one binary.
//!
//! Data goes to standard output or to the file that an option names; logs and progress go to standard error. The exit
//! code is 0 when the work is done, 1 when it failed, 2 when the command line was wrong.

mod args;
mod bench;
mod config_file;
mod demo;
mod doctor;
mod embed;
mod failure;
mod load;
mod open_files;
mod output;
mod serve;
mod system;

use std::io::IsTerminal;
use std::process::ExitCode;

use args::Command;
use failure::Failure;

fn main() -> ExitCode {
    let cli = match config_file::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    start_logging(&cli.log);
    let done = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(&failure),
    }
}

/// Prints what went wrong as one sentence and turns it into the exit code.
fn report(failure: &Failure) -> ExitCode {
    // Whoever reads our output has closed it, as `head` does: nobody is left to tell.
    if !failure.is_broken_pipe() {
        use std::io::Write;
        // If standard error is gone too, the exit code still speaks.
        let _ = writeln!(std::io::stderr(), "siglip: {failure}");
    }
    ExitCode::from(failure.exit_code())
}

fn start_logging(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(filter);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .init();
}
