//! What the system's own files say.

/// The value of the first `name : value` line of a file.
pub(crate) fn first_value(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The same as a size in MB, where the file gives it in kB as the kernel does; 0 where the system does not say.
pub(crate) fn megabytes(file: &str, name: &str) -> f64 {
    let value = first_value(file, name);
    let kib = value.and_then(|value| value.strip_suffix(" kB")?.trim().parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0 / 1e6
}
