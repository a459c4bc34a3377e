"""Train all runs of a comparison, several at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm import tqdm

from mipkd_plugin.compare.logs import read_history
from mipkd_plugin.compare.results import RESULTS, Row, rows_of, write_rows
from mipkd_plugin.compare.run_folders import RunError, commit_of, hardware_of, run_folder
from mipkd_plugin.compare.runs import InterruptedRunError, Runner
from mipkd_plugin.compare.trials import Comparison, Trial


class ComparisonRunner:
    """Trains the missing runs of a comparison and keeps its ``results.csv``.

    Args:
        comparison: The comparison.
        folder: Folder of the comparison.
        rows: Rows of its ``results.csv``.
    """

    def __init__(self, comparison: Comparison, folder: Path, rows: Sequence[Row]) -> None:
        self.comparison = comparison
        self.folder = folder
        self.rows = list(rows)
        self.runner = Runner(folder, comparison.protocol_hash)
        self.ended = 0

    def run(self, jobs: int) -> list[RunError]:
        """Train the missing runs and write ``results.csv`` after each of them.

        On Ctrl-C or an unexpected error it stops all runs first, then raises.

        Args:
            jobs: Number of runs at the same time.

        Returns:
            The errors of the failed runs.
        """
        failures = []
        todo = [trial for trial in self.comparison.trials if not self._is_there(trial)]
        self.ended = len(self.comparison.trials) - len(todo)
        if self.ended:
            tqdm.write(f'{self.ended} of {len(self.comparison.trials)} runs are in {self.folder / RESULTS}')
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = {pool.submit(self._measure, trial): trial for trial in todo}
                for future in as_completed(futures):
                    failures += self._take(future, futures[future])
            except BaseException:
                tqdm.write('stopping; run the same command again to continue from the last checkpoints')
                self.runner.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return failures

    def _is_there(self, trial: Trial) -> bool:
        found = {row.testset for row in self.rows if (row.method, row.seed) == (trial.method, trial.seed)}
        return found >= set(self.comparison.testsets)

    def _measure(self, trial: Trial) -> list[Row]:
        """Train a run if it is not finished, and read its results from the log."""
        rows = self._collect(trial)
        if rows:
            return rows
        with tqdm(desc=f'{trial.method} seed {trial.seed}', total=trial.iterations, unit='it', disable=None,
                  leave=False) as bar:
            self.runner.train(trial, lambda iteration: _advance(bar, iteration))
        rows = self._collect(trial)
        if not rows:
            raise RunError(f'{trial.name} has finished, but its log in {run_folder(trial)} has no validation at '
                           f'iteration {trial.iterations} on {", ".join(self.comparison.testsets)}')
        return rows

    def _collect(self, trial: Trial) -> list[Row]:
        history = read_history(run_folder(trial), trial.iterations)
        if not history.metrics:
            return []
        rows = rows_of(trial, self.comparison, history, commit_of(trial), hardware_of(trial))
        for row in rows:
            if not math.isfinite(row.psnr) or not math.isfinite(row.ssim):
                raise RunError(f'{trial.name} has finished, but on {row.testset} its PSNR is {row.psnr} and its SSIM '
                               f'{row.ssim}: they do not enter {RESULTS}. Move {run_folder(trial)} away, and fix the '
                               'images or lower train.optim_g.lr before you repeat it')
        return rows

    def _take(self, future: Future[list[Row]], trial: Trial) -> list[RunError]:
        self.ended += 1
        line = f'[{self.ended}/{len(self.comparison.trials)}] {trial.method} seed {trial.seed}: '
        try:
            rows = future.result()
        except RunError as error:
            tqdm.write(f'{line}failed')
            return [error]
        except InterruptedRunError:
            return []
        self.rows = [row for row in self.rows if (row.method, row.seed) != (trial.method, trial.seed)] + rows
        write_rows(self.folder / RESULTS, self.rows, self.comparison)
        measured = ', '.join(f'{row.testset} {row.psnr:.3f} dB' for row in rows)
        tqdm.write(f'{line}{measured}, {rows[0].seconds:.0f} s')
        return []


def _advance(bar: tqdm, iteration: int) -> None:
    """Show an iteration. The bar measures time from the first shown iteration, also for a resumed run."""
    if bar.n == 0:
        bar.initial = bar.n = iteration
        bar.unpause()
        bar.refresh()
    else:
        bar.update(iteration - bar.n)
