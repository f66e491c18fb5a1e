//! The program `siglip`: SigLIP embeddings from one binary.
//!
//! Data goes to standard output or to the file that an option names; logs and progress go to standard error. The exit
//! code is 0 when the work is done, 1 when it failed, 2 when the command line was wrong.

mod ahead;
mod args;
mod bench;
mod cache;
mod classify;
mod config_file;
mod demo;
mod device;
mod doctor;
mod embed;
mod engine_options;
mod failure;
mod fetch;
mod gpu_report;
mod html;
mod identity;
mod images;
mod interrupt;
mod load;
mod logging;
mod open_files;
mod output;
mod progress;
mod prompts;
mod serve;
mod store;
mod system;
mod text_embedder;
mod validate;

use std::process::ExitCode;

use args::Command;
use failure::Failure;

/// What a request allocates on one thread and frees on another costs glibc's allocator an eighth of a request's time, and
/// over gRPC more (`docs/performance.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match config_file::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let log = logging::start(&cli.log);
    let done = match cli.command {
        Command::Serve(args) => serve::run(args, log),
        Command::Embed(args) => embed::run(args),
        Command::Classify(args) => classify::run(args),
        Command::Validate(args) => validate::run(args),
        Command::Fetch(args) => fetch::run(&args),
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
