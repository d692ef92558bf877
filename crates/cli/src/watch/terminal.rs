//! The terminal as a screen to draw on, left as it was whatever becomes of the process, short of a kill.

use anyhow::{Context, bail};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::{cursor, execute, terminal};
use std::io::{self, IsTerminal, Write, stderr};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

/// Whether the screen is open; whoever writes to it holds this, so that nothing is drawn on what was restored.
static OPEN: Mutex<bool> = Mutex::new(false);

/// An open screen, on standard error, so that standard output has results alone. Closed when dropped, and also by
/// [`restore`].
pub(crate) struct Screen {
    pub(crate) terminal: Terminal<CrosstermBackend<Frames>>,
}

impl Screen {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// If standard error is no terminal, or there is none to read keys from; with `instead` as what to do.
    pub(crate) fn open(what: &str, instead: &str) -> anyhow::Result<Screen> {
        check(what, instead)?;
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let print = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                restore();
                print(info);
            }));
        });
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        terminal::enable_raw_mode()
            .with_context(|| format!("{what} needs a terminal to read keys from: {instead}"))?;
        *open = true;
        drop(open);
        // From here on it is closed again if anything fails.
        let mut screen = Screen { terminal: Terminal::new(CrosstermBackend::new(Frames(Vec::new())))? };
        // `Terminal::clear` would ask for the cursor's place on standard output, which may be a file.
        let clear = terminal::Clear(terminal::ClearType::All);
        execute!(screen.terminal.backend_mut(), terminal::EnterAlternateScreen, clear, cursor::Hide)?;
        Ok(screen)
    }
}

/// Refuses where there is no terminal, before anything else is done.
pub(crate) fn check(what: &str, instead: &str) -> anyhow::Result<()> {
    if !stderr().is_terminal() {
        bail!("{what} needs a terminal, and standard error is none: {instead}");
    }
    Ok(())
}

/// What there is to read from the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Perhaps an event; asking does not wait.
    Perhaps,
    /// Nothing, for good: nobody is there any more. Asking for events would never return.
    Over,
}

/// Waits for a key, but not longer than that.
#[cfg(unix)]
pub(crate) fn wait(limit: Duration) -> io::Result<Input> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::fs::File;
    use std::os::fd::AsFd;
    // Where keys come from if not from standard input, as crossterm has it.
    static TTY: OnceLock<Option<File>> = OnceLock::new();
    let stdin = io::stdin();
    let tty = if stdin.is_terminal() {
        stdin.as_fd()
    } else {
        match TTY.get_or_init(|| File::open("/dev/tty").ok()) {
            Some(tty) => tty.as_fd(),
            None => return Ok(Input::Over),
        }
    };
    let mut fds = [PollFd::new(tty, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO)) {
        // A signal, such as that of a new size.
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(e) => return Err(e.into()),
    }
    let gone = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    let is_over = fds[0].revents().is_some_and(|found| found.intersects(gone));
    Ok(if is_over { Input::Over } else { Input::Perhaps })
}

/// Waits for a key, but not longer than that.
#[cfg(not(unix))]
pub(crate) fn wait(limit: Duration) -> io::Result<Input> {
    ratatui::crossterm::event::poll(limit).map(|_| Input::Perhaps)
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

/// Leaves the terminal as it was, if it is not already; from any thread, at any time.
pub(crate) fn restore() {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if std::mem::take(&mut *open) {
        let _ = execute!(stderr(), terminal::LeaveAlternateScreen, cursor::Show);
        let _ = terminal::disable_raw_mode();
    }
}

/// Collects what is drawn until it is flushed, a whole frame at a time, and drops it once the screen is closed.
pub(crate) struct Frames(Vec<u8>);

impl Write for Frames {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if *open {
            stderr().write_all(&self.0)?;
        }
        self.0.clear();
        Ok(())
    }
}
