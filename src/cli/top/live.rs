//! The terminal: taken, drawn on, and given back however this ends.

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

/// How long a key may wait to be seen, and a look to be drawn.
const ATTENTION: Duration = Duration::from_millis(50);

/// What reaches the screen from elsewhere.
enum Message {
    Looked(Vec<Look>),
    Stop,
}

/// Draws until a key or a signal ends it. Looking goes on in the runtime that this is called in.
pub(super) fn run(scraper: Scraper, screen: Screen) -> io::Result<()> {
    let (sender, messages) = mpsc::channel();
    let (stop, _) = told_to_stop()?;
    let stopping = sender.clone();
    tokio::spawn(async move {
        stop.await;
        // Where nobody listens any more it has ended already.
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

/// The terminal is ours. A panic gives it back by the hook that taking it installed, before the
/// panic is told.
struct Taken;

impl Drop for Taken {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // There is no other way to give it back.
            drop(ratatui::try_restore());
        }
    }
}
