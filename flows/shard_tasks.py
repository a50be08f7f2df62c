"""The shards of a big batch as Prefect tasks, on the task runner that the pipeline names."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NoReturn, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from ae_models.cores import available_cores
from ae_models.errors import InputError
from flows.config_runner import DaskRunner, ProcessesRunner, RayRunner, RunnerUnion, ThreadsRunner
from flows.rows import Look
from flows.shards import TICK, Partition, RunShards, Shard, score_shard, share_of

T = TypeVar("T")


def as_tasks(runner: RunnerUnion) -> RunShards:
    """Shards scored as Prefect tasks, on a new task runner each round.

    Raises:
        InputError: the package of the task runner is not installed.
    """
    task_runner(runner)  # said before a batch is claimed
    cores = _cores_of_a_worker(runner)

    def run(shards: Sequence[Shard], look: Look) -> Iterator[tuple[Shard, Partition | BaseException]]:
        with task_runner(runner) as workers:
            sent = []
            for shard in shards:
                try:
                    sent.append((shard, workers.submit(_task(shard), {"work": Work(shard, cores)})))
                except Exception as error:  # such as a pool that has lost a worker meanwhile
                    yield shard, error
            for shard, future in sent:
                yield shard, _outcome(future, look)

    return run


def _task(shard: Shard) -> Any:
    name = f"images {shard.start + 1} to {shard.start + len(shard.items)}"
    return task(name="score shard", task_run_name=name, cache_policy=NO_CACHE, persist_result=False)(_done)


class Work:
    """A shard as a call to be made: Prefect and Dask would look through all that it holds, image by image."""

    def __init__(self, shard: Shard, cores: int | None) -> None:
        self.shard, self.cores = shard, cores

    def __call__(self) -> Partition:
        return score_shard(self.shard, self.cores)

    def __dask_tokenize__(self) -> str:
        """What stands for it where Dask tells works apart."""
        return str(self.shard.output)


def _done(work: Callable[[], Partition]) -> Partition:
    return work()


class Here(Generic[T]):
    """A call that is made in this process only: whoever is sent it gets nothing of what it holds.

    Prefect sends the flow and the task around a task along with it, and with these all that their functions refer to:
    with each shard that would be every image of the batch, the detector and the stores.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call

    def __call__(self) -> T:
        return self._call()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Here, (_elsewhere,)


def _elsewhere() -> NoReturn:
    raise RuntimeError("this is done by the process that cuts the batch, and by no worker")


def _outcome(future: Any, look: Look) -> Partition | BaseException:
    while True:
        try:
            outcome: Partition | BaseException = future.result(timeout=TICK, raise_on_failure=False)
            return outcome
        except TimeoutError:  # of this look; one that the worker met is given back, not raised
            look()
        except Exception as error:  # the worker died
            return error


def task_runner(runner: RunnerUnion) -> TaskRunner[Any]:
    """Prefect's task runner for it, not started yet.

    Raises:
        InputError: its package is not installed.
    """
    workers = runner.workers or available_cores()
    if isinstance(runner, DaskRunner):
        return _dask(runner.address, workers)
    if isinstance(runner, RayRunner):
        return _ray(runner.address, workers)
    if isinstance(runner, ProcessesRunner):
        return ProcessPoolTaskRunner(workers)
    return ThreadPoolTaskRunner(max_workers=workers)


def _cores_of_a_worker(runner: RunnerUnion) -> int | None:
    """The cores that are a worker's own: Dask and Ray give each core a task; None for threads of a process."""
    if isinstance(runner, ThreadsRunner):
        return None
    return share_of(runner.workers or available_cores()) if isinstance(runner, ProcessesRunner) else 1


def _dask(address: str | None, workers: int) -> TaskRunner[Any]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise _missing("dask", error) from error
    if address:
        return DaskTaskRunner(address=address)
    cluster = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0"}
    return DaskTaskRunner(cluster_kwargs=cluster)


def _ray(address: str | None, workers: int) -> TaskRunner[Any]:
    try:
        from prefect_ray.task_runners import RayTaskRunner
    except ImportError as error:
        raise _missing("ray", error) from error
    own = {"address": "local", "num_cpus": workers, "include_dashboard": False}  # never one that happens to run here
    runner: TaskRunner[Any] = RayTaskRunner(address=address) if address else RayTaskRunner(init_kwargs=own)
    return runner


def _missing(name: str, error: ImportError) -> InputError:
    return InputError(
        f"runner: {name} needs the package prefect-{name}, which cannot be imported ({error}): install it with pip "
        f"install 'reconwatch[{name}]', or set runner: processes"
    )
