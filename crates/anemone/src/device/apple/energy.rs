//! The engine's energy, where the machine tells: macOS counts it in IOReport, which macmon reads.

/// Reads the counters from when it was started.
pub(super) struct Meter(inner::Meter);

impl Meter {
    /// Starts counting; `None` where nothing counts.
    pub(super) fn start() -> Option<Meter> {
        inner::Meter::start().map(Meter)
    }

    /// The energy since then, in joules. It is the engine's and not this program's alone.
    pub(super) fn joules(&self) -> Option<f64> {
        self.0.joules()
    }
}

#[cfg(target_os = "macos")]
mod inner {
    use macmon::sources::{IOReport, IOReportIteratorItem, cfio_integer_value};
    use std::sync::Mutex;
    use std::sync::mpsc::{self, Receiver, Sender};

    /// The counters belong to a thread of their own, as they cannot be sent to another. It ends with the meter.
    pub(super) struct Meter {
        asks: Mutex<Sender<Sender<Option<f64>>>>,
    }

    impl Meter {
        pub(super) fn start() -> Option<Meter> {
            let (asks, asked) = mpsc::channel();
            let (begun, has_begun) = mpsc::channel();
            let thread = std::thread::Builder::new().name("energy".into());
            thread.spawn(move || count(&asked, &begun)).ok()?;
            has_begun.recv().ok().filter(|is| *is)?;
            Some(Meter { asks: Mutex::new(asks) })
        }

        pub(super) fn joules(&self) -> Option<f64> {
            let (answer, answered) = mpsc::channel();
            self.asks.lock().unwrap_or_else(|e| e.into_inner()).send(answer).ok()?;
            answered.recv().ok()?
        }
    }

    fn count(asked: &Receiver<Sender<Option<f64>>>, begun: &Sender<bool>) {
        let Ok(mut report) = IOReport::new(vec![("Energy Model", None)]) else {
            let _ = begun.send(false);
            return;
        };
        // What is counted from, and whether there is anything of the engine to count.
        let mut total = since_last(&mut report).map(|_| 0.0);
        if begun.send(total.is_some()).is_err() {
            return;
        }
        while let Ok(answer) = asked.recv() {
            total = total.zip(since_last(&mut report)).map(|(sum, more)| sum + more);
            // Whoever has asked may be gone.
            let _ = answer.send(total);
        }
    }

    /// The energy since the last call; `None` if there is no counter of the engine.
    fn since_last(report: &mut IOReport) -> Option<f64> {
        let engines = report.get_samples(0, 1).into_iter().flat_map(|(items, _)| items).filter_map(joules);
        engines.fold(None, |sum, j| Some(sum.unwrap_or(0.0) + j))
    }

    /// The energy of a counter, if it is one of the engine's: `ANE`, `ANE0`, or `ANE0_1`, by chip.
    fn joules(item: IOReportIteratorItem) -> Option<f64> {
        let unit = match item.unit.as_str() {
            "mJ" => 1e-3,
            "uJ" => 1e-6,
            "nJ" => 1e-9,
            _ => return None,
        };
        item.channel.starts_with("ANE").then(|| cfio_integer_value(item.item) as f64 * unit)
    }
}

#[cfg(not(target_os = "macos"))]
mod inner {
    /// Nothing counts here.
    pub(super) enum Meter {}

    impl Meter {
        pub(super) fn start() -> Option<Meter> {
            None
        }

        pub(super) fn joules(&self) -> Option<f64> {
            match *self {}
        }
    }
}
