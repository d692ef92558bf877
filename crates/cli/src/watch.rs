//! `anemone watch`, and the same view in `anemone train --tui`: a run on the screen, read from its folder.

mod draw;
pub(crate) mod figures;
pub(crate) mod terminal;

use crate::{Outcome, args};
use anemone::Run;
use anyhow::Context;
use draw::View;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use terminal::{Input, Screen};

/// How often the screen is drawn.
const REDRAW: Duration = Duration::from_millis(100);
/// How often it is where no more is to come.
const REDRAW_ENDED: Duration = Duration::from_millis(500);
/// How often it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(25);

pub(crate) fn run(args: &args::Watch) -> anyhow::Result<Outcome> {
    let mut run = Run::open(&args.run)?;
    let stop = Arc::new(AtomicBool::new(false));
    let asked = stop.clone();
    ctrlc::set_handler(move || asked.store(true, Ordering::Relaxed)).context("catch signals")?;
    let mut screen = Screen::open("`anemone watch`", "in a script, `anemone runs --json` says how runs stand")?;
    show(&mut run, &mut screen, &stop, None)?;
    Ok(Outcome::Clean)
}

/// Shows the run until it is asked to stop. Ctrl-C calls `interrupt`, where there is one, instead of leaving.
fn show(run: &mut Run, screen: &mut Screen, stop: &AtomicBool, interrupt: Option<fn()>) -> anyhow::Result<()> {
    let mut view = View { keys_of_training: interrupt.is_some(), ..View::default() };
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if Instant::now() >= due {
            // A folder that cannot be read now may be readable again.
            view.trouble = run.refresh().err().map(|e| e.to_string());
            screen.terminal.draw(|frame| draw::draw(frame, run, &view, anemone::run::now_us()))?;
            due = Instant::now() + if run.state().is_alive() { REDRAW } else { REDRAW_ENDED };
        }
        if terminal::wait(LOOK)? == Input::Over {
            return Ok(());
        }
        if !event::poll(Duration::ZERO)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                let is_ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                match key.code {
                    _ if is_ctrl_c => match interrupt {
                        Some(interrupt) => interrupt(),
                        None => return Ok(()),
                    },
                    KeyCode::Char('q') => return Ok(()),
                    KeyCode::Char('l') => view.log = !view.log,
                    KeyCode::Char('?' | 'h') => view.help = !view.help,
                    _ => view.help = false,
                }
                due = Instant::now();
            }
            Event::Resize(..) => due = Instant::now(),
            _ => {}
        }
    }
    Ok(())
}

/// What `anemone train` calls its view, and what to do where it cannot be.
pub(crate) const TUI: (&str, &str) =
    ("`--tui`", "leave it out, or use `anemone watch RUN` in a terminal while this trains");

/// The view of a run that this process trains, drawn by a thread of its own from the run's folder.
pub(crate) struct Live {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Live {
    /// Opens the screen. `interrupt` is what Ctrl-C does, which in a view is a key.
    pub(crate) fn open(folder: &Path, interrupt: fn()) -> anyhow::Result<Live> {
        let mut screen = Screen::open(TUI.0, TUI.1)?;
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let folder: PathBuf = folder.into();
        let thread = std::thread::Builder::new().name("view".into()).spawn(move || {
            let mut run = Run::open(&folder)?;
            show(&mut run, &mut screen, &asked, Some(interrupt))
        })?;
        Ok(Live { stop, thread: Some(thread) })
    }

    /// Whether it was closed, by a key or by an error.
    pub(crate) fn is_closed(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Closes it, and says what went wrong, if anything did.
    pub(crate) fn close(mut self) -> Option<String> {
        self.end()
    }

    fn end(&mut self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take()?.join() {
            Ok(Ok(())) => None,
            Ok(Err(e)) => Some(format!("the view was closed: {e:#}")),
            Err(_) => Some("the view was closed: it panicked".into()),
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}
