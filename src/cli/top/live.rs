//! The terminal: set up, drawn on, and restored however the view ends.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender, TryRecvError},
    time::Duration,
};

use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::time::MissedTickBehavior;

use super::{
    replica::Look,
    scrape::Scraper,
    screen::{Flow, Screen},
    view,
};
use crate::cli::serve::told_to_stop;

/// Longest delay before a key press is handled or a new scrape is drawn.
const ATTENTION: Duration = Duration::from_millis(50);

/// Events from other threads.
enum Message {
    Looked(Vec<Look>),
    Stop,
}

/// Draws until a key or a signal ends it. Scraping continues on the runtime that this is called
/// from.
pub(super) fn run(scraper: Scraper, screen: Screen) -> io::Result<()> {
    let (sender, messages) = mpsc::channel();
    let (stop, _) = told_to_stop()?;
    let stopping = sender.clone();
    tokio::spawn(async move {
        stop.await;
        // If the receiver is gone, the view has already ended.
        drop(stopping.send(Message::Stop));
    });
    tokio::spawn(look(scraper, screen.interval, sender));
    tokio::task::block_in_place(|| show(screen, &messages))
}

async fn look(scraper: Scraper, interval: Duration, sender: Sender<Message>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if sender.send(Message::Looked(scraper.look().await)).is_err() {
            return;
        }
    }
}

fn show(mut screen: Screen, messages: &Receiver<Message>) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let _taken = Taken;
    let mut has_changed = true;
    loop {
        loop {
            match messages.try_recv() {
                Ok(Message::Looked(looks)) => screen.take(looks, super::now()),
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => break,
            }
            has_changed = true;
        }
        if has_changed {
            terminal.draw(|frame| view::draw(frame, &screen))?;
        }
        has_changed = event::poll(ATTENTION)?;
        if has_changed && let Event::Key(key) = event::read()? {
            let flow =
                if key.kind == KeyEventKind::Release { Flow::GoOn } else { screen.press(key) };
            if flow == Flow::Quit {
                return Ok(());
            }
        }
    }
}

/// Restores the terminal when dropped. On a panic, the hook that setup installed restores it before
/// the message is printed.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // If this fails, there is no other way to restore it.
            drop(ratatui::try_restore());
        }
    }
}
