"""From files in the inbox to published answers: what is written, what is refused, and what a crash leaves."""


def test_first(project, rows_of=None) -> None:
    project.put("monday.parquet", __import__("answer.kit").kit.rows(1000))
    result = project.run()
    print(result)
    for name, frame in project.published().items():
        print(name, frame)
    assert 0
