//! The threads that may block in a name service for ever: a bounded number, each of which takes one question after the
//! other.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// A question that waits for longer gets another thread, while there are fewer than the most.
const PATIENCE: Duration = Duration::from_secs(1);

type Question = Box<dyn FnOnce() + Send>;

/// Threads that answer questions. The first starts with the first question and lives as long as this value, so that a
/// later question needs no new thread; further ones start only while those that there are do not answer.
pub(super) struct Askers {
    most: usize,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<AskersState>,
    changed: Condvar,
}

#[derive(Default)]
struct AskersState {
    questions: VecDeque<Question>,
    threads: usize,
    is_over: bool,
}

impl Askers {
    /// At most `most` threads.
    pub(super) fn new(most: usize) -> Self {
        Self { most, shared: Arc::default() }
    }

    /// The result of `question`, which runs on one of the threads. Never resolves where the question never ends.
    pub(super) async fn run<T: Send + 'static>(&self, question: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, mut answer) = oneshot::channel();
        let question = move || {
            // One that was answered by another thread meanwhile need not be asked any more.
            if !send.is_closed() {
                drop(send.send(question()));
            }
        };
        self.shared.state().questions.push_back(Box::new(question));
        self.shared.changed.notify_one();
        if self.shared.state().threads == 0 {
            self.add_thread();
        }
        loop {
            match timeout(PATIENCE, &mut answer).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(_panicked)) => return std::future::pending().await,
                Err(_late) => self.add_thread(),
            }
        }
    }

    /// The first answer to `question`, which is put again after `patience`, and again after twice as long each time: a
    /// service that came back may never answer what it was asked before.
    pub(super) async fn run_again<T: Send + 'static>(
        &self,
        question: impl Fn() -> T + Clone + Send + 'static,
        mut patience: Duration,
    ) -> T {
        let mut questions = FuturesUnordered::new();
        loop {
            questions.push(self.run(question.clone()));
            if let Ok(Some(answer)) = timeout(patience, questions.next()).await {
                return answer;
            }
            patience = patience.saturating_mul(2);
        }
    }

    /// Adds a thread for a question that waits, unless there are enough. One that the system does not give is tried again
    /// while a question waits.
    fn add_thread(&self) {
        let mut state = self.shared.state();
        if state.questions.is_empty() || state.threads >= self.most {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let started = std::thread::Builder::new().name("names".to_owned()).spawn(move || shared.answer_questions());
        state.threads += usize::from(started.is_ok());
    }
}

impl Shared {
    fn answer_questions(&self) {
        loop {
            let state = self.state();
            let idle = |state: &mut AskersState| state.questions.is_empty() && !state.is_over;
            let mut state = self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
            let Some(question) = state.questions.pop_front().filter(|_| !state.is_over) else { return };
            drop(state);
            question();
        }
    }

    fn state(&self) -> MutexGuard<'_, AskersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Askers {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for Askers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Askers").field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_question_that_hangs_delays_the_next_one_until_there_is_another_thread() {
        let askers = Arc::new(Askers::new(2));
        let (end, hangs) = mpsc::channel::<()>();
        let hanging = {
            let askers = Arc::clone(&askers);
            tokio::spawn(async move { askers.run(move || hangs.recv().is_err()).await })
        };
        assert_eq!(askers.run(|| 7).await, 7);
        assert_eq!(askers.run(|| 8).await, 8);
        assert_eq!(askers.shared.state().threads, 2);
        assert!(!hanging.is_finished());
        drop(end);
        assert!(hanging.await.unwrap());
    }

    #[tokio::test]
    async fn more_questions_hang_than_there_are_threads_and_are_answered_once_they_do_not() {
        let askers = Arc::new(Askers::new(1));
        let (end, hangs) = mpsc::channel::<()>();
        let hanging = tokio::spawn({
            let askers = Arc::clone(&askers);
            async move { askers.run(move || hangs.recv().is_err()).await }
        });
        let waiting = tokio::spawn({
            let askers = Arc::clone(&askers);
            async move { askers.run(|| 7).await }
        });
        assert!(timeout(PATIENCE * 2, hanging).await.is_err());
        assert!(!waiting.is_finished());
        drop(end);
        assert_eq!(waiting.await.unwrap(), 7);
        assert_eq!(askers.shared.state().threads, 1);
    }

    #[tokio::test]
    async fn a_question_that_is_never_answered_is_put_again() {
        let askers = Askers::new(2);
        let (never, hangs) = mpsc::channel::<()>();
        let (hangs, asked) = (Arc::new(Mutex::new(hangs)), Arc::new(Mutex::new(0)));
        let question = move || {
            let number = {
                let mut asked = asked.lock().unwrap();
                *asked += 1;
                *asked
            };
            if number == 1 {
                hangs.lock().unwrap().recv().unwrap_err();
            }
            number
        };
        assert!(askers.run_again(question, Duration::from_millis(10)).await > 1);
        drop(never);
    }
}
