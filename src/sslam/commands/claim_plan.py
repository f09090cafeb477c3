"""What `sslam claims` does: the runs that decide claims of the papers, and one page with the verdicts."""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sslam.atomic_write import write_whole
from sslam.claims.claim import Claim, Clause, Scale, read, read_claim
from sslam.claims.page import Arm, Judged, write_results
from sslam.claims.verdict import judge, number_of
from sslam.commands.child_process import Ended
from sslam.commands.claim_runs import ClaimData, PretrainingRun
from sslam.commands.evaluate import EvaluationRun, run_in_process
from sslam.commands.evaluated_weights import Weights
from sslam.commands.exit_codes import DONE, FAILED
from sslam.commands.fitting.config_files import experiments_folder, locate
from sslam.commands.made_from import keep, require_same
from sslam.commands.recipes import own_recipe
from sslam.errors import UsageError
from sslam.folder_lock import lock_folder
from sslam.report.results import Run, read_record

# ---- what is to be run -----------------------------------------------------------------------------------------------


def data_of(root: str | None, scale: Scale, output: Path) -> ClaimData:
    """Built-in scenes, or recordings; those of ESC-50 are read through a table in the output folder."""
    folder = experiments_folder() / "claims"
    if root is None:
        return ClaimData("built-in scenes", folder / "built_in", ())
    options = ["--data.num_folds", str(scale.folds)]
    if _metadata(root).is_file():
        audio = (Path(root) / "audio").absolute()
        options += ["--data.root", str(_table(output).absolute()), "--data.audio", str(audio)]
    else:
        options += ["--data.root", str(Path(root).absolute())]
    return ClaimData(f"recordings of {root}", folder / "recordings", tuple(options))


def _metadata(root: str) -> Path:
    """Where ESC-50 has it."""
    return Path(root) / "meta" / "esc50.csv"


def _table(output: Path) -> Path:
    return output / "esc50.csv"


def write_table(root: str | None, output: Path) -> None:
    """Of ESC-50, the metadata as a CSV file of one's own recordings in the output folder; a source is a group."""
    if root is None or not (metadata := _metadata(root)).is_file():
        return
    from data_modules.esc50 import CLASS_NAMES, read_metadata

    def write(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("file", "label", "group"))
            writer.writerows((row.filename, CLASS_NAMES[row.target], row.src_file) for row in read_metadata(metadata))

    write_whole(_table(output), write)


@dataclass(frozen=True)
class Plan:
    """The runs of claims.

    Args:
        scale: How large they are.
        data: What they are of.
        output: Folder of everything.
    """

    scale: Scale
    data: ClaimData
    output: Path

    def pretraining(self, file: Path, claim: Claim, arm: str, seed: int) -> PretrainingRun:
        planned = claim.arms[arm]
        return PretrainingRun(planned, file.parent, self.scale, self.data, seed, self.output / "pretraining")

    def evaluation(self, pretraining: PretrainingRun, on: str, random: bool = False) -> EvaluationRun:
        """The evaluation of a run's encoder, or of random weights of its architecture."""
        recipe = own_recipe(self.data.file(on))
        label = f"{'random weights of ' if random else ''}{pretraining.name} seed {pretraining.seed}"
        weights = Weights(label, str(pretraining.checkpoint.absolute()), random)
        return EvaluationRun(recipe, weights, {}, self.output / "evaluation", recipe.subcommand)

    def more(self, on: str) -> list[str]:
        """Options of an evaluation beside its recipe."""
        return ["--config", json.dumps(self.scale.evaluation.get(on, {})), *self.data.options]

    def runs(self, claims: dict[Path, Claim]) -> list[PretrainingRun | EvaluationRun]:
        """All of them, each once, in an order in which they can be done: seed by seed."""
        runs: dict[Path, PretrainingRun | EvaluationRun] = {}
        for seed in self.scale.seeds:
            for file, claim in claims.items():
                for clause in claim.clauses:
                    for arm in (clause.better, clause.than):
                        pretraining = self.pretraining(file, claim, arm, seed)
                        with_random = arm == clause.than and seed == self.scale.seeds[0]
                        for run in self._with_those_before(pretraining, clause.evaluation, with_random):
                            require_equal(run, runs.setdefault(run.folder, run))
        return list(runs.values())

    def _with_those_before(
        self, pretraining: PretrainingRun, on: str, with_random: bool
    ) -> list[PretrainingRun | EvaluationRun]:
        chain = [pretraining]
        while (before := chain[0].before) is not None:
            chain.insert(0, before)
        random = [self.evaluation(pretraining.first_encoder, on, random=True)] if with_random else []
        return [*chain, *random, self.evaluation(pretraining, on)]


def require_equal(run: PretrainingRun | EvaluationRun, other: PretrainingRun | EvaluationRun) -> None:
    """Refuses two runs of one folder that would not be the same.

    Raises:
        UsageError: Names the folder.
    """
    if isinstance(run, PretrainingRun) and isinstance(other, PretrainingRun) and run.made_from() != other.made_from():
        raise UsageError(f"Two arms with other files would both be in {run.folder}. Give their files other names.")


# ---- doing it --------------------------------------------------------------------------------------------------------


def do(plan: Plan, runs: Sequence[PretrainingRun | EvaluationRun]) -> int:
    """All runs that are not finished; one that needs a run that failed is left out.

    Returns:
        How many could not be done.
    """
    failures = 0
    for number, run in enumerate(runs, start=1):
        print(f"[{number}/{len(runs)}] {run}", end="", flush=True)
        start = time.monotonic()
        try:
            said = _do(plan, run)
        except (Ended, KeyboardInterrupt):
            print()
            raise
        failures += said.startswith("not done")
        print(f": {said} ({time.monotonic() - start:.0f} s)" if said == "done" else f": {said}", flush=True)
    return failures


def _do(plan: Plan, run: PretrainingRun | EvaluationRun) -> str:
    if isinstance(run, PretrainingRun):
        if run.before is not None and not run.before.is_finished:
            return f"not done, because {run.before} is not"
        require_same(run.folder, run.made_from(), "Choose another --output")
        if run.is_finished:
            return "done before"
        code, said = run.do()
    else:
        if not Path(run.weights.file).exists():
            return "not done, because its pre-training is not"
        more = plan.more(run.recipe.name)
        require_same(run.folder, run.made_from(more), "Choose another --output")
        if run.is_finished:
            return "done before"
        run.folder.mkdir(parents=True, exist_ok=True)
        keep(run.folder, run.made_from(more))
        code, said = run_in_process(run, more)
    return "done" if code == DONE else f"not done, {said} ({run.folder / 'log.txt'})"


def judged(plan: Plan, file: Path, claim: Claim) -> Judged:
    """A claim with what its runs have found.

    Raises:
        UsageError: If the arms of a clause have not seen as many clips in as many steps.
    """
    seeds = plan.scale.seeds
    runs_of = {arm: [plan.pretraining(file, claim, arm, seed) for seed in seeds] for arm in claim.arms}
    arms = {}
    for arm, runs in runs_of.items():
        if all(run.is_finished for run in runs):
            arms[arm] = Arm(*runs[0].budget(), runs[0].shown_command, tuple(str(run.config) for run in runs))
    findings, random = [], []
    for clause in claim.clauses:
        budgets = {arms[arm][:2] for arm in (clause.better, clause.than) if arm in arms}
        if len(budgets) > 1:
            raise UsageError(
                f"{file}: {clause.better} and {clause.than} have other steps and clips seen, {sorted(budgets)}. A "
                "claim compares equal ones: correct its files, or the scale."
            )
        evaluated = {arm: _records(plan, runs_of[arm], clause) for arm in (clause.better, clause.than)}
        first = plan.evaluation(runs_of[clause.than][0].first_encoder, clause.evaluation, random=True)
        random.append(number_of(clause, _finished([first])))
        findings.append(judge(clause, evaluated, random[-1]))
    return Judged(file.stem, claim, findings, random, arms)


def _records(plan: Plan, runs: Sequence[PretrainingRun], clause: Clause) -> list[Run]:
    """The evaluations of all seeds; none if one is missing."""
    evaluated = _finished([plan.evaluation(run, clause.evaluation) for run in runs])
    return evaluated if len(evaluated) == len(runs) else []


def _finished(evaluations: Sequence[EvaluationRun]) -> list[Run]:
    paths = [evaluation.folder / "results-test.json" for evaluation in evaluations if evaluation.is_finished]
    return [Run(path, read_record(path)) for path in paths]


def do_claims(options: argparse.Namespace) -> int:
    """All runs that are missing, then the page.

    Args:
        options: Of the command line.

    Returns:
        Exit code: 0; 1 if a run was not done.

    Raises:
        UsageError: If a claim cannot be tested as it is stated.
    """
    stated = {Path(os.path.normpath(locate(file))): read_claim(Path(locate(file))) for file in options.claims}
    scale = read(Scale, Path(locate(options.scale)))
    output: Path = options.output
    plan = Plan(scale, data_of(options.root, scale, output), output)
    for file, claim in stated.items():
        for clause in claim.clauses:
            if not Path(plan.data.file(clause.evaluation)).is_file():
                raise UsageError(
                    f"{file} is judged by {clause.evaluation}, which cannot be done yet: there is no "
                    f"{plan.data.file(clause.evaluation)}. Leave this claim out."
                )
    runs = plan.runs(stated)
    if options.list:
        print("\n".join(f"{run}{': done before' if run.is_finished else ''}" for run in runs))
        return DONE
    output.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(output, "Wait for it, or choose another --output.")
    write_table(options.root, output)
    failures = do(plan, runs)
    results = [judged(plan, file, claim) for file, claim in stated.items()]
    settings = {"data": plan.data.title, "scale": options.scale, "seeds": ", ".join(map(str, scale.seeds))}
    written = write_results(output, results, settings)
    print("\n" + "\n".join(f"{result.claim.claim} {result.verdict.capitalize()}." for result in results))
    print(f"written: {', '.join(map(str, written))}")
    lock.release()
    if failures:
        print(f"sslam claims: {failures} of {len(runs)} runs were not done.", file=sys.stderr)
    return FAILED if failures else DONE
