//! A picture on the terminal, over the last one.

use std::io::Write;

use crate::cli::CliError;

/// Columns and lines of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub lines: usize,
}

/// Of standard output; none where it is no terminal that says so.
#[cfg(unix)]
pub fn size() -> Option<Size> {
    let mut found = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the call writes a winsize into the one that it is given, which lives for the whole call.
    let answer = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut found) };
    let size = Size { columns: found.ws_col.into(), lines: found.ws_row.into() };
    (answer == 0 && size.columns > 0 && size.lines > 0).then_some(size)
}

#[cfg(not(unix))]
pub fn size() -> Option<Size> {
    None
}

/// Writes over the last picture without a moment of emptiness: home, each line with its rest cleared, everything below cleared.
pub fn redraw(text: &str, size: Option<Size>, out: &mut dyn Write) -> Result<(), CliError> {
    write!(out, "\u{1b}[H")?;
    for line in fitted(text, size) {
        writeln!(out, "{line}\u{1b}[K")?;
    }
    write!(out, "\u{1b}[J")?;
    Ok(out.flush()?)
}

/// Lines that neither wrap nor scroll; the last one says how many are left out.
fn fitted(text: &str, size: Option<Size>) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let Some(Size { columns, lines: height }) = size else { return lines.into_iter().map(str::to_owned).collect() };
    // The cursor ends on a line of its own.
    let room = height.saturating_sub(1).max(1);
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    if lines.len() <= room {
        return lines.into_iter().map(cut).collect();
    }
    let shown = room - 1;
    let more = format!("… {} more lines; all of them: kubectl grid top --once", lines.len() - shown);
    lines.iter().take(shown).map(|line| cut(line)).chain([cut(&more)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_fits_the_terminal() {
        let size = Some(Size { columns: 5, lines: 4 });
        assert_eq!(fitted("abcdefg\nb\n", size), ["abcde", "b"]);
        let cut = fitted("1\n2\n3\n4\n5\n", size);
        assert_eq!((cut.len(), &cut[..2], &cut[2][..]), (3, &["1".to_owned(), "2".to_owned()][..], "… 3 m"));
        assert_eq!(fitted("1\n2\n", None).len(), 2);
    }

    #[test]
    fn the_last_picture_is_written_over() {
        let mut out = Vec::new();
        redraw("a\n", None, &mut out).unwrap();
        assert_eq!(out, b"\x1b[Ha\x1b[K\n\x1b[J");
    }
}
