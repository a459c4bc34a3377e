"""The stages of ``mipkd distill``: recognize, choose, prepare, write, train, show."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mipkd_plugin.commands.distill import PLACES, SETTINGS, require_fitting
from mipkd_plugin.commands.shared import read, read_checked
from mipkd_plugin.utils.errors import MipkdError, UsageError
from mipkd_plugin.utils.locks import TakenError, alone
from mipkd_plugin.utils.stopping import Stop, Stopped, listening, name_of

_TIMING = '\nTiming the teacher and smaller students …'


class DiskError(MipkdError):
    """A file of the results cannot be written."""

    exit_code = 4


class Distill:
    """One call of ``mipkd distill``.

    Args:
        args: The parsed arguments.

    Raises:
        UsageError: An argument is missing, or the teacher's file is.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from mipkd_plugin.recipes import record

        self.args = args
        given = {name: getattr(args, name) for name in ('teacher', 'hr', 'student', 'lr', 'val', 'val_lr', *SETTINGS)}
        given |= {'set': args.set, 'import': args.imports}
        self.given = {name: str(value) if name in PLACES else value for name, value in given.items()
                      if value is not None}
        require_fitting(args)
        self.command = record.command_line(sys.argv[2:])
        self.request = record.request(self.given, self.command)
        self.out: Path = args.out if args.out is not None else record.default_out(args.teacher, args.student)
        self.option_file = self.out / f'{self.out.resolve().name}.yml'

    def run(self) -> int:
        """Carry it out.

        Returns:
            Exit code 0.

        Raises:
            UsageError: The folder holds another run.
            DiskError: A file cannot be written.
            MipkdError: Something else does not fit; nothing was overwritten.
            Stopped: A signal has stopped it; the same line goes on.
            BrokenPipeError: Nobody reads the output any more.
        """
        from mipkd_plugin.recipes import record

        if self.args.list:
            return self._list()
        saved = record.read(self.out)
        if saved is not None:
            record.refuse_other(saved, self.request, self.out)
        elif Path('experiments', self.option_file.stem).exists():
            raise UsageError(f'experiments/{self.option_file.stem}: is a run that no mipkd distill --out {self.out} '
                             f'has begun.\n   -> Write another folder: --out {record.free_name(self.out)}')
        try:
            return self._carry_out(saved)
        except Stopped as error:
            if error.args[0]:  # the training has said how to go on
                raise
            raise Stopped(error.signum, f'Stopped by {name_of(error.signum)}. Go on with: {self.command}') from error
        except BrokenPipeError:  # the reader of our output, such as head, has stopped
            raise
        except OSError as error:
            raise DiskError(f'{error.filename or self.out}: {error.strerror or error}\n   -> Make room or fix the '
                            'permissions, then type the same line again') from error

    def _carry_out(self, saved: Any) -> int:
        recipe = None
        if not self.option_file.is_file():
            recipe = self._recipe()
        with self._alone():
            if recipe is not None:
                self._write(recipe)
            if self.args.write_only:
                print(f'\nWritten: {self.option_file}. Now type one of these:\n  basicsr train -opt '
                      f'{self.option_file}\n  {self.command.replace(" --write-only", "")}')
                return 0
            self._train()
            return self._show()

    # ------------------------------------------------------------------------------------ before the training
    def _teacher(self) -> Any:
        from mipkd_plugin.recognition import recognize

        print(f'Reading {self.args.teacher} …', flush=True)
        teacher = recognize(Path(self.args.teacher).expanduser())
        print(f'Recognized ({teacher.source}), x{teacher.scale}:\n{teacher.as_yaml().rstrip()}')
        for note in teacher.notes:
            print(f'  note: {note}')
        return teacher

    def _list(self) -> int:
        from mipkd_plugin.recipes.students import students, table
        from mipkd_plugin.recipes.students_families import FAMILIES

        self._import()
        family = self.args.student.partition(':')[0]
        teacher = self._teacher()
        print(_TIMING, flush=True)
        for line in table(students(teacher, family if family in FAMILIES else None)):
            print(line)
        return 0

    def _recipe(self) -> Any:
        """Everything that is decided before a file is written."""
        from mipkd_plugin.recipes import data, recipe, students

        self._import()
        teacher = self._teacher()
        recipe.require_color(teacher)
        images = data.plan(self.args.hr, self.args.lr, self.args.val, self.args.val_lr, teacher.scale, self.out)
        print(_TIMING, flush=True)
        student = students.choose(self.args.student, teacher)
        print(*student.lines(), sep='\n', flush=True)
        head = [f'{student.notation} learns from {Path(self.args.teacher).name}. Written by this line, which also goes '
                'on after a stop and shows the results:', f'  {self.command.replace(" --write-only", "")}',
                'Without mipkd distill, in the same folder:',
                f'  basicsr train -opt {self.option_file} --auto_resume']
        made = recipe.make(self.option_file.stem, teacher, student, images, self.given, head,
                           partial(print, flush=True))
        print('\nChosen (each can be given, see mipkd distill --help):', *made.settings.lines(), sep='\n')
        for note in made.notes:
            print(f'  note: {note}')
        if self.args.lr is None:
            print('  note: LR images are made by bicubic downsampling; blur, noise and compression of real photographs '
                  'are not simulated')
        sys.stdout.flush()
        return made

    def _import(self) -> None:
        if self.args.imports:
            from mipkd_plugin import config

            config.load_plugins(config.Options({}), self.args.imports)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Inside the block, no other ``mipkd distill`` works in this folder."""
        from mipkd_plugin.recipes.record import LOCK

        try:
            self.out.mkdir(parents=True, exist_ok=True)
            with alone(self.out / LOCK, keep=False):
                yield
        except TakenError as error:
            raise UsageError(f'--out {self.out}: another mipkd distill works in this folder ({error.holder}).\n   -> '
                             'Wait for it, stop it, or name another folder') from error

    def _write(self, recipe: Any) -> None:
        from mipkd_plugin.utils.files import write_text

        self.request.values = recipe.settings.values
        self.request.save(self.out)
        scale = recipe.options['scale']
        print('\nPreparing the images …', flush=True)
        for pairs in (recipe.data.train, recipe.data.val):
            print(f'  {pairs.name}: {pairs.make(scale, None)}', flush=True)
        write_text(self.option_file, recipe.text)

    # ------------------------------------------------------------------------------------------ the training
    def _options(self) -> argparse.Namespace:
        """The arguments that ``basicsr train`` would have."""
        return argparse.Namespace(command='train', opt=str(self.option_file), force_yml=None, launcher='none',
                                  auto_resume=True, debug=False, imports=[], local_rank=0)

    def _train(self) -> None:
        """Train, or go on; nothing to do for a run that has come to its end."""
        from mipkd_plugin.recipes import outcome

        args = self._options()
        if outcome.student_file(read(args)).is_file():
            print(f'{self.option_file.stem} is trained.')
            return
        with listening() as stop:
            folder = Path('experiments', self.option_file.stem, 'training_states')
            args.auto_resume = any(folder.glob('*.state'))
            print(f'\nChecking {self.option_file} …', flush=True)
            opt, _, report = read_checked(args, True, launcher='none', auto_resume=args.auto_resume, probe='full')
            self._run_pipeline(opt, report, stop, args.auto_resume)

    def _run_pipeline(self, opt: Any, report: Any, stop: Stop, resumes: bool) -> None:
        from mipkd_plugin.models import running
        from mipkd_plugin.recipes.progress import Progress

        batch = opt['datasets']['train']['batch_size_per_gpu']
        progress = Progress(int(opt['train']['total_iter']), batch, self._threads())
        print(f'Training {opt["name"]}; Ctrl-C saves, and the same line goes on. Log: experiments/{opt["name"]}/',
              flush=True)
        crops = opt['datasets']['train'].get('crops')
        if crops:
            print(f'Drawing {crops:,d} crops …', flush=True)
        arguments = ['-opt', str(self.option_file), *(['--auto_resume'] if resumes else [])]
        with running.as_basicsr(opt, 'train', arguments):
            running.train(opt, report.built.distillation, report.checkpoint, stop, self.command, progress.watching())

    def _threads(self) -> int:
        from mipkd_plugin.recipes import record

        saved = record.read(self.out)
        return int(saved.values.get('threads', 0)) if saved is not None else 0

    # --------------------------------------------------------------------------------------------- the results
    def _show(self) -> int:
        from mipkd_plugin.recipes import outcome

        opt = read(self._options())
        weights = outcome.student_file(opt)
        table, picture = self.out / outcome.TABLE, self.out / outcome.PICTURE
        if outcome.is_up_to_date(self.out, weights):
            text = table.read_text(encoding='utf-8').rstrip()
        else:
            from mipkd_plugin.recognition import recognize

            print(f'\nComparing student, teacher and bicubic on {opt["datasets"]["val"]["name"]} …', flush=True)
            teacher = recognize(Path(self.args.teacher).expanduser())
            text = outcome.show(opt, teacher, self.out, self._threads())
        print(f'\n{text}\n\n  table    {table}\n  picture  {picture}\n  student  {weights}\n  options  '
              f'{self.option_file}\n\nWhat to type next:')
        for line in outcome.next_lines(opt, self.option_file, self.out):
            print(f'  {line}')
        return 0
