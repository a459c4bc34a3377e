"""MTKD: stage 1 trains the aggregator of frozen teachers, stage 2 distills from it as from any teacher."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from aggregates import AGGREGATOR, aggregate_options, load, whole, write_aggregate
from helpers import STUDENTS, as_parsed, tiny_options
from training import train, train_until, two_ranks, typed, write_options

from mipkd_plugin import OptionError, config
from mipkd_plugin.archs.knowledge_aggregator_arch import images_of
from mipkd_plugin.cli import basicsr_main
from mipkd_plugin.config.trained import load_trained
from mipkd_plugin.models import AggregateModel, DistillModel
from mipkd_plugin.models.finite_steps import FiniteSteps
from basicsr.archs import build_network


def a_model(folder: Path, **changes: Any) -> AggregateModel:
    return AggregateModel(as_parsed(aggregate_options(folder, **changes), folder))


def weights_in(run: Path, label: str = 'latest') -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / 'models' / f'net_g_{label}.pth', weights_only=True)
    return found


# --------------------------------------------------------------------------------------------- stage 1
def test_a_step_is_one_of_srmodel_on_the_images_of_the_teachers(image_pairs: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """L1 to HR, Adam and EMA; no graph is built over the teachers, and nothing moves in them."""
    model = a_model(image_pairs)
    for module in model.net_g.modules():  # drop-path draws random numbers
        module.drop_prob = 0.0
    teachers = [load(entry) for entry in model.opt['teachers']]
    lq, gt = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16)
    seen: list[torch.Tensor] = []
    model.net_g.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = torch.cat([teacher(lq).detach() for teacher in teachers], 1)
    expected = (model.get_bare_model(model.net_g)(images) - gt).abs().mean().item()
    seen.clear()
    before = [p.detach().clone() for p in model.net_g.parameters()]
    model.feed_data({'lq': lq, 'gt': gt})
    model.optimize_parameters(1)
    assert torch.allclose(seen[0], images)
    assert not seen[0].requires_grad
    assert dict(model.log_dict) == {'l_pix': pytest.approx(expected, rel=1e-5)}
    assert torch.equal(model.lq, lq), 'what was fed stays'
    assert any(not torch.equal(p, old) for p, old in zip(model.net_g.parameters(), before))
    for p, old, average in zip(model.net_g.parameters(), before, model.net_g_ema.parameters()):
        assert torch.allclose(average, 0.9 * old + 0.1 * p, atol=1e-7)
    for own, theirs in zip(model.teachers, teachers):
        assert not own.training
        assert all(p.grad is None and not p.requires_grad for p in own.parameters())
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in own.state_dict().items())
    assert [len(group['params']) for group in model.optimizer_g.param_groups] == [len(before)]
    assert isinstance(model.optimizer_g, torch.optim.Adam)


@pytest.mark.parametrize('size', [(8, 12), (9, 13), (3, 5)])
def test_validation_runs_the_teachers_on_padded_images(image_pairs: Path, size: tuple[int, int]) -> None:
    """SwinIR takes multiples of its window alone; the moving average is what is tested."""
    model = a_model(image_pairs)
    lq = torch.rand(1, 3, *size)
    model.feed_data({'lq': lq})
    model.test()
    assert model.output.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert torch.equal(model.lq, lq)
    if size == (8, 12):
        images = images_of(model.teachers, lq)
        with torch.no_grad():
            assert torch.allclose(model.output, model.net_g_ema.eval()(images), atol=1e-6)


def test_the_command_trains_tests_and_saves_a_file_that_says_all(image_pairs: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(image_pairs)
    opt = aggregate_options(image_pairs)
    assert train(write_options(opt, image_pairs / 'agg.yml')) == 0
    out = capsys.readouterr()
    assert 'swinir: SwinIR' in out.out + out.err
    content = weights_in(image_pairs / 'experiments/aggregate')
    assert set(content) == {'params', 'params_ema', 'aggregate'}
    build_network(AGGREGATOR).load_state_dict(content['params'], strict=True)
    record = json.loads(content['aggregate'])
    assert record['aggregator'] == AGGREGATOR
    assert [{key: entry[key] for key in given} for entry, given in zip(record['teachers'], opt['teachers'])] == (
        opt['teachers'])
    assert [entry['sha256'] for entry in record['teachers']] == [
        config.teacher_fingerprint(load(entry)) for entry in opt['teachers']]
    test = {key: opt[key] for key in ('model_type', 'scale', 'num_gpu', 'network_g', 'teachers')}
    test.update(name='tested', datasets={'test': opt['datasets']['val']},
                path={'pretrain_network_g': 'experiments/aggregate/models/net_g_latest.pth', 'strict_load_g': True,
                      'param_key_g': 'params_ema'},
                val={'save_img': False, 'metrics': opt['val']['metrics']})
    assert basicsr_main(['test', '-opt', str(write_options(test, image_pairs / 'test.yml'))]) == 0
    tested = capsys.readouterr()
    psnr = [line.split()[2] for line in (out.out + out.err + tested.out + tested.err).splitlines() if '# psnr' in line]
    assert len(set(psnr)) == 1, 'the test measures what the validation of the training did'
    shuffled = {**test, 'teachers': list(reversed(opt['teachers']))}
    assert basicsr_main(['test', '-opt', str(write_options(shuffled, image_pairs / 'test.yml'))]) == 2
    assert 'was trained on the images of other teachers: the order edsr, rcan, swinir' in capsys.readouterr().err


def test_teachers_with_other_options_are_other_teachers(image_pairs: Path, monkeypatch: pytest.MonkeyPatch,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    """The weights are the same, and the images are not: found before a test, a resume, and a start from the file."""
    monkeypatch.chdir(image_pairs)
    opt = aggregate_options(image_pairs)
    opt['train']['total_iter'] = opt['logger']['save_checkpoint_freq'] = 1
    del opt['val'], opt['datasets']['val']
    assert train(write_options(opt, image_pairs / 'agg.yml')) == 0
    trained = 'experiments/aggregate/models/net_g_latest.pth'
    first = opt['teachers'][0]
    other = [{**first, 'network': {**first['network'], 'res_scale': 0.5}}, *opt['teachers'][1:]]
    capsys.readouterr()

    def refused(changed: dict[str, Any], *flags: str, test: bool = False) -> str:
        path = str(write_options({**opt, **changed}, image_pairs / 'x.yml'))
        assert (basicsr_main(['test', '-opt', path]) if test else train(Path(path), *flags)) == 2
        return capsys.readouterr().err

    test = {'datasets': {'test': {'name': 'x', 'type': 'PairedImageDataset', 'dataroot_gt': 'HR',
                                  'dataroot_lq': 'LRbicx2', 'io_backend': {'type': 'disk'}}},
            'path': {'pretrain_network_g': trained, 'strict_load_g': True, 'param_key_g': 'params_ema'}}
    longer = {'train': {**opt['train'], 'total_iter': 2}}
    said = 'was trained on the images of other teachers: teachers[0].network.res_scale 1 -> 0.5'
    assert said in refused({**test, 'teachers': other}, test=True)
    assert said in refused({**longer, 'teachers': other}, '--auto_resume')
    anew = refused({'name': 'anew', 'teachers': other, 'path': {**opt['path'], 'pretrain_network_g': trained}})
    assert said in anew
    assert ', or remove pretrain_network_g to train an aggregator of these teachers' in anew
    network = {'network_g': {**AGGREGATOR, 'image_skip': True}}
    assert 'was trained with another network_g: network_g.image_skip ' in refused({**test, **network}, test=True)


def test_exact_resume_is_bit_identical(image_pairs: Path, monkeypatch: pytest.MonkeyPatch,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    """With drop-path, which draws random numbers; another teacher is refused."""
    monkeypatch.chdir(image_pairs)
    opt = aggregate_options(image_pairs)
    opt['train']['exact_resume'] = True
    path = write_options(opt, image_pairs / 'agg.yml')
    assert train(path) == 0
    straight = weights_in(image_pairs / 'experiments/aggregate')
    shutil.move(image_pairs / 'experiments', image_pairs / 'before')
    train_until(path, 'written', 2)
    other = {**opt, 'teachers': [opt['teachers'][0], *opt['teachers'][:0:-1]]}
    capsys.readouterr()
    assert train(write_options(other, image_pairs / 'other.yml'), '--auto_resume') == 2
    assert 'was trained on the images of other teachers: the order edsr, rcan, swinir' in capsys.readouterr().err
    assert train(path, '--auto_resume') == 0
    resumed = weights_in(image_pairs / 'experiments/aggregate')
    for key in ('params', 'params_ema'):
        assert all(torch.equal(value, straight[key][name]) for name, value in resumed[key].items())
    assert resumed['aggregate'] == straight['aggregate']


def test_an_aggregator_that_has_diverged_is_no_checkpoint_to_go_on_from(image_pairs: Path) -> None:
    """Tried with images of the teachers: of LR images the aggregator can make nothing at all."""
    model = a_model(image_pairs)
    model.lq = torch.rand(1, 3, 8, 8)
    watch = FiniteSteps(model, lambda: 0)
    watch.in_a_row = 1
    assert watch.gives_images()
    with torch.no_grad():
        model.net_g.conv_last.weight.fill_(3e38)
    assert not watch.gives_images()


def test_two_processes_train_equal_weights(image_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opt = aggregate_options(image_pairs)
    opt['train']['total_iter'] = 2
    write_options(opt, image_pairs / 'agg.yml')
    step = AggregateModel.optimize_parameters

    def stepping(self: AggregateModel, current_iter: int) -> None:
        step(self, current_iter)
        assert type(self.net_g).__name__ == 'DistributedDataParallel', type(self.net_g)
        net = self.net_g.module
        torch.save([net.state_dict(), {name: p.grad for name, p in net.named_parameters()}],
                   f'rank{self.opt["rank"]}.pth')

    monkeypatch.setattr(AggregateModel, 'optimize_parameters', stepping)
    for result in two_ranks(basicsr_main, 'train', '-opt', 'agg.yml', '--launcher', 'pytorch', cwd=image_pairs):
        assert result.returncode == 0, result.stderr
    first, second = (torch.load(image_pairs / f'rank{rank}.pth') for rank in (0, 1))
    for one, two in zip(first, second):
        assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert 'aggregate' in weights_in(image_pairs / 'experiments/aggregate')


def test_taps_are_those_of_the_aggregator_with_its_teachers(image_pairs: Path) -> None:
    """Alone it takes no LR image; the paths are those that stage 2 taps."""
    write_options(aggregate_options(image_pairs), image_pairs / 'agg.yml')
    found = typed('taps', '-opt', 'agg.yml', cwd=image_pairs)
    assert found.returncode == 0, found.stderr
    assert 'aggregator AggregatedTeachers, ' in found.stdout
    assert '* aggregator.layers.1 ' in found.stdout


# --------------------------------------------------------------------------------------------- stage 2
def student_options(folder: Path, **teacher: Any) -> dict[str, Any]:
    opt = tiny_options(folder, teacher={'aggregate': str(write_aggregate(folder)), **teacher})
    opt['train']['pixel_opt']['loss_weight'] = 0.1
    opt['train']['distill_opt'] = [{'type': 'WaveletKDLoss'}, {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 8}]
    return opt


def test_the_aggregator_is_a_teacher_as_others_are(image_pairs: Path) -> None:
    """Its image is that of its file, with the average of its weights; its taps lie in the aggregator."""
    opt = student_options(image_pairs)
    model = DistillModel(as_parsed(opt, image_pairs))
    expected = whole(image_pairs / 'net_g_latest.pth', aggregate_options(image_pairs)['teachers'])
    lq = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        images = torch.cat([teacher(lq) for teacher in expected.teachers], 1)
        assert torch.allclose(model.nets.teacher(lq).output, expected.aggregator(images), atol=1e-6)
    assert model.teacher_fingerprint == config.teacher_fingerprint(expected)
    assert [pair[1] for pair in model.losses[1].pairs] == ['aggregator.layers.0', 'aggregator.layers.1']
    model.feed_data({'lq': lq, 'gt': torch.rand(2, 3, 16, 16)})
    model.optimize_parameters(1)
    assert {'l_wavelet_low', 'l_wavelet_high', 'l_feat', 'l_block'} <= set(model.log_dict)
    after = model.teacher.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in expected.state_dict().items())


def test_the_command_distills_and_refuses_to_resume_with_another_aggregator(
        image_pairs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(image_pairs)
    opt = student_options(image_pairs, dtype='bfloat16')
    opt['train']['exact_resume'] = True
    path = write_options(opt, image_pairs / 'student.yml')
    assert train(path) == 0
    straight = weights_in(image_pairs / 'experiments/tiny')
    build_network(STUDENTS['EDSR']).load_state_dict(straight['params'], strict=True)
    shutil.move(image_pairs / 'experiments', image_pairs / 'before')
    train_until(path, 'written', 2)
    content = torch.load(image_pairs / 'net_g_latest.pth', weights_only=True)
    torch.save({**content, 'params_ema': content['params']}, image_pairs / 'other.pth')
    other = {**opt, 'teacher': {**opt['teacher'], 'aggregate': str(image_pairs / 'other.pth')}}
    capsys.readouterr()
    assert train(write_options(other, image_pairs / 'other.yml'), '--auto_resume') == 2
    said = capsys.readouterr().err
    assert 'is not the teacher that' in said
    assert 'teacher.aggregate (line' in said
    shutil.move(image_pairs / 'net_g_latest.pth', image_pairs / 'moved.pth')
    opt['teacher']['aggregate'] = str(image_pairs / 'moved.pth')
    assert train(write_options(opt, path), '--auto_resume') == 0, 'the same weights elsewhere are the same teacher'
    resumed = weights_in(image_pairs / 'experiments/tiny')
    assert all(torch.equal(value, straight['params'][name]) for name, value in resumed['params'].items())


def test_its_answers_can_be_cached(image_pairs: Path) -> None:
    opt = student_options(image_pairs, cache='memory')
    opt['datasets']['train'].update(type='CropPoolDataset', crops=4)
    opt['train']['distill_opt'] = [{'type': 'WaveletKDLoss'}]
    assert not config.check_options(opt, is_train=True).problems


def test_a_loss_that_shows_it_images_of_the_student_gets_a_gradient(image_pairs: Path) -> None:
    opt = student_options(image_pairs)
    opt['train']['distill_opt'] = [{'type': 'DCKDLoss', 'taps': 2, 'history_every': 1}]
    assert not config.check_options(opt, is_train=True).problems


@pytest.mark.parametrize(('spoil', 'says', 'remedy'), [
    (lambda content, record: {'params': content['params']}, 'holds no aggregator', 'AggregateModel'),
    (lambda content, record: {'aggregate': content['aggregate']}, 'holds the keys aggregate', 'AggregateModel'),
    (lambda content, record: torch.nn.Linear(1, 1), 'to load them could run code', 'AggregateModel'),
    (lambda content, record: {**content, 'aggregate': json.dumps({**record, 'aggregator': {**AGGREGATOR, 'new': 1}})},
     'describes an aggregator that cannot be built: new is not an option', 'train the aggregator again'),
    (lambda content, record: {**content, 'aggregate': json.dumps({**record, 'teachers': record['teachers'][:2]})},
     'takes the images of 3 teachers, and names 2', 'train the aggregator again')])
def test_a_broken_file_is_one_problem_with_a_remedy_for_aggregators(image_pairs: Path, spoil: Any, says: str,
                                                                    remedy: str) -> None:
    opt = student_options(image_pairs)
    path = image_pairs / 'net_g_latest.pth'
    content = torch.load(path, weights_only=True)
    torch.save(spoil(content, json.loads(content['aggregate'])), path)
    problem, = config.check_options(opt, is_train=True, probe='none').problems
    assert problem.where in ('teacher.aggregate', 'teacher.param_key')
    assert says in problem.what
    assert remedy in problem.remedy


@pytest.mark.parametrize('key', ['params', 'params_ema'])
def test_param_key_chooses_the_weights_of_the_aggregator(image_pairs: Path, key: str) -> None:
    opt = student_options(image_pairs, param_key=key)
    expected = whole(image_pairs / 'net_g_latest.pth', aggregate_options(image_pairs)['teachers'], key)
    assert config.build_distillation(opt).fingerprint == config.teacher_fingerprint(expected)


def test_teachers_may_move(image_pairs: Path, tmp_path: Path) -> None:
    """Beside the file of the aggregator they are found; elsewhere ``files`` says where."""
    opt = student_options(image_pairs)
    before = config.build_distillation(opt).fingerprint
    (image_pairs / 'moved').mkdir()
    for name in ('edsr', 'swinir'):
        shutil.move(image_pairs / f'{name}.pth', image_pairs / 'moved' / f'{name}.pth')
    with pytest.raises(OptionError) as refused:
        config.build_distillation(opt)
    assert str(refused.value).count('the weights of its teacher') == 2
    opt['teacher']['files'] = {name: str(image_pairs / 'moved' / f'{name}.pth') for name in ('edsr', 'swinir')}
    assert config.build_distillation(opt).fingerprint == before
    shutil.move(image_pairs / 'net_g_latest.pth', image_pairs / 'moved' / 'net_g_latest.pth')
    shutil.move(image_pairs / 'rcan.pth', image_pairs / 'moved' / 'rcan.pth')
    opt['teacher'] = {'aggregate': str(image_pairs / 'moved' / 'net_g_latest.pth')}
    assert config.build_distillation(opt).fingerprint == before


def test_an_aggregator_may_be_one_of_several_teachers(image_pairs: Path) -> None:
    opt = student_options(image_pairs)
    opt['teachers'] = [{'name': 'all', **opt.pop('teacher')}, aggregate_options(image_pairs)['teachers'][0]]
    opt['train']['distill_opt'] = [{'type': 'WaveletKDLoss', 'teacher': 'all'},
                                   {'type': 'LogitsKDLoss', 'teacher': 'edsr'}]
    assert not config.check_options(opt, is_train=True, probe='none').problems
    loaded = load_trained(opt, image_pairs / 'net_g_latest.pth', 'teachers[0]')  # as report, show and upscale do
    expected = whole(image_pairs / 'net_g_latest.pth', aggregate_options(image_pairs)['teachers'])
    assert config.teacher_fingerprint(loaded) == config.teacher_fingerprint(expected)
    opt['teachers'][0]['files'] = {'edsr': 'gone.pth'}
    problem, = config.check_options(opt, is_train=True, probe='none').problems
    assert problem.where == 'teachers[0].files.edsr'
    assert 'write teachers[0].files: {edsr: PATH}' in problem.remedy
