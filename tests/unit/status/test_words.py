"""What is left of a log's end: the errors of one that logs like glog, else the last lines."""

from moorage.status.words import last_words

TRITON = r"""
|                                                          |
+----------------------------------------------------------+
W1123 22:54:46.660674 10 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1123 22:54:46.660842 10 server.cc:241] "CudaDriverHelper has not been initialized."
I1123 22:54:49.673418 18 pb_stub.cc:298]  Failed to initialize Python stub for auto-complete: ValueError: the words

At:
  /tmp/r/bad/1/model.py(1): <module>
  <frozen importlib._bootstrap>(241): _call_with_frames_removed

E1123 22:54:49.674872 10 model_lifecycle.cc:642] "failed to load 'bad' version 1: Internal: ValueError: the words\n\nAt:\n  /tmp/model.py(1): <module>\n"
Error: Failed to initialize NVML
W1123 22:54:49.677671 10 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
error: creating server: Internal - failed to load all models
"""  # noqa: E501


def test_of_triton_the_errors_without_times_and_traces() -> None:
    assert last_words(TRITON).splitlines() == [
        "CudaDriverHelper has not been initialized.",
        "failed to load 'bad' version 1: Internal: ValueError: the words",
        "Error: Failed to initialize NVML",
        "error: creating server: Internal - failed to load all models",
    ]


def test_the_same_end_at_another_time_is_the_same() -> None:
    assert last_words(TRITON.replace("22:54:49", "23:00:01")) == last_words(TRITON)


def test_of_other_logs_the_last_lines() -> None:
    assert last_words("\n".join(f"line {n}" for n in range(9))) == "line 4\nline 5\nline 6\nline 7\nline 8"


def test_only_chatter_is_better_than_nothing() -> None:
    line = 'I1123 22:54:49.1 1 server.cc:305] "Waiting"'
    assert last_words(line) == line


def test_a_long_line_keeps_its_end() -> None:
    assert last_words("x" * 3000 + "the end").endswith("the end")
    assert len(last_words("x" * 3000)) == 1001
