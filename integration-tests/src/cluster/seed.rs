//! How the platform's images come to hosts that can pull nothing: loaded once into a volume, the seed, which is then
//! copied to be each host's disk. That is several times faster than loading them on each.

use std::fs::File;

use super::command::{LONG, SHORT, docker, run, text};
use super::node::RUN_OPTIONS;
use super::{Error, Steps, root, target, unique};

/// The image of the hosts themselves.
pub(crate) const HOST_IMAGE: &str = "colossus/test-host";

/// Label of a seed; its value says what is in it.
const LABEL: &str = "colossus.seed";

/// Written last: a seed without it was never finished.
const MARKER: &str = ".seed-complete";

/// An image of the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// `etcd` for `colossus/etcd`.
    pub(crate) name: String,
    id: String,
}

impl Image {
    /// As it is told in labels and on the hosts.
    fn entry(&self) -> String {
        format!("{}@{}", self.name, self.id)
    }

    fn reference(&self) -> String {
        format!("colossus/{}:latest", self.name)
    }
}

/// A volume to be copied. As long as it is held, no other process removes it in favour of one with newer images.
#[derive(Debug)]
pub(crate) struct Seed {
    volume: String,
    /// What is in it, in the order of their names.
    pub(crate) images: Vec<Image>,
    _lock: File,
}

/// The platform's images as they are now; those that others stand on and those for tests are no part of it.
async fn images() -> Result<Vec<Image>, Error> {
    let format = "{{.Repository}} {{.ID}}";
    let filter = ["--filter", "reference=colossus/*:latest", "--format", format];
    let list = docker(&[&["image", "ls"], &filter[..]].concat(), SHORT).await?;
    let mut images: Vec<Image> = list
        .lines()
        .filter_map(|line| {
            let (name, id) = line.strip_prefix("colossus/")?.split_once(' ')?;
            let part = !name.ends_with("-base") && name != "certs" && !name.starts_with("test-");
            part.then(|| Image {
                name: name.to_owned(),
                id: id.to_owned(),
            })
        })
        .collect();
    images.sort_by(|a, b| a.name.cmp(&b.name));
    if images.iter().any(|image| image.name == "example-web") {
        Ok(images)
    } else {
        Err(Error::with_mend(
            "the platform's images are missing",
            "build them: make images",
        ))
    }
}

/// What these images are.
fn content(images: &[Image]) -> String {
    let entries: Vec<String> = images.iter().map(Image::entry).collect();
    entries.join(",")
}

/// Makes the hosts' image and the seed unless they are there, and removes seeds of images that are no more.
pub(crate) async fn ensure(steps: &Steps) -> Result<Seed, Error> {
    let lock = lock().await?;
    let script = root().join("integration-tests/images/host/build.sh");
    run(&script.to_string_lossy(), &[], None, LONG * 5).await?;
    let images = images().await?;
    let host = docker(&["image", "inspect", "-f", "{{.Id}}", HOST_IMAGE], SHORT).await?;
    // The rest of its `/var` comes from the host's image.
    let label = format!("{LABEL}={host},{}", content(&images));
    let list = |filter: String| async move {
        docker(
            &["volume", "ls", "-q", "--filter", &format!("label={filter}")],
            SHORT,
        )
        .await
    };
    let mut volume = None;
    for present in list(label.clone()).await?.split_whitespace() {
        if volume.is_none() && is_whole(present).await {
            volume = Some(present.to_owned());
        }
    }
    let volume = match volume {
        Some(volume) => volume,
        None => {
            let made = make(&label, &images);
            steps.step("the platform's images for the hosts", made).await?
        }
    };
    for old in list(LABEL.to_owned()).await?.split_whitespace() {
        if old != volume {
            // One that is in use stays, and goes another time.
            let _ = docker(&["volume", "rm", old], SHORT).await;
        }
    }
    Ok(Seed {
        volume,
        images,
        _lock: lock,
    })
}

/// Whether it was finished: whoever made it may have been killed.
async fn is_whole(volume: &str) -> bool {
    let (mount, marker) = (format!("{volume}:/seed:ro"), format!("/seed/{MARKER}"));
    let look = [
        "run",
        "--rm",
        "--network=none",
        "-v",
        &mount,
        "--entrypoint=test",
        HOST_IMAGE,
        "-s",
        &marker,
    ];
    docker(&look, SHORT).await.is_ok()
}

async fn make(label: &str, images: &[Image]) -> Result<String, String> {
    let volume = unique("colossus-seed");
    docker(&["volume", "create", "--label", label, &volume], SHORT).await?;
    let references: Vec<String> = images.iter().map(Image::reference).collect();
    let pipeline = format!(
        "set -o pipefail; docker save {} | docker run --rm -i --name {volume} --network=none {} -v {volume}:/var \
         --entrypoint /test-bed/seed.sh {HOST_IMAGE} load '{}'",
        references.join(" "),
        RUN_OPTIONS.join(" "),
        content(images),
    );
    match run("bash", &["-c", &pipeline], None, LONG * 3).await {
        Ok(_) => Ok(volume),
        Err(error) => {
            // Killing the pipeline leaves the container, which holds the volume.
            let _ = docker(&["rm", "-f", &volume], SHORT).await;
            let _ = docker(&["volume", "rm", "-f", &volume], SHORT).await;
            Err(error)
        }
    }
}

impl Seed {
    /// Lets go of the volume.
    pub(crate) fn into_images(self) -> Vec<Image> {
        self.images
    }

    /// Copies it to new volumes. The container that does it has these labels, to be found if it is left behind.
    pub(crate) async fn copy(&self, volumes: &[&str], labels: &[&str]) -> Result<(), String> {
        let from = format!("{}:/seed:ro", self.volume);
        let to: Vec<String> = volumes
            .iter()
            .map(|volume| format!("{volume}:/nodes/{volume}"))
            .collect();
        let mut arguments = vec!["run", "--rm", "--entrypoint", "/test-bed/seed.sh", "-v", &from];
        arguments.extend(labels);
        arguments.extend(RUN_OPTIONS);
        arguments.extend(to.iter().flat_map(|volume| ["-v", volume.as_str()]));
        arguments.extend([HOST_IMAGE, "copy"]);
        docker(&arguments, LONG).await.map(drop)
    }
}

/// Brings the images of a running host up to date: those that have changed.
pub(crate) async fn update(container: &str, images: &[Image]) -> Result<(), String> {
    let marker = ["exec", container, "cat", &format!("/var/{MARKER}")];
    let present = docker(&marker, SHORT).await?;
    let changed: Vec<String> = images
        .iter()
        .filter(|image| !present.split(',').any(|entry| entry == image.entry()))
        .map(Image::reference)
        .collect();
    if changed.is_empty() {
        return Ok(());
    }
    let pipeline = format!(
        "set -o pipefail; docker save {} | docker exec -i {container} docker load",
        changed.join(" ")
    );
    run("bash", &["-c", &pipeline], None, LONG).await?;
    let write = format!("cat >/var/{MARKER}");
    let arguments = ["exec", "-i", container, "sh", "-c", &write];
    let content = content(images);
    run("docker", &arguments, Some(content.as_bytes()), SHORT)
        .await
        .map(|output| drop(text(&output)))
}

/// One at a time: two would make the same.
async fn lock() -> Result<File, Error> {
    let path = target().join("cluster-seed.lock");
    let locked = tokio::task::spawn_blocking(move || {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let file = File::create(path)?;
        file.lock().map(|()| file)
    });
    let locked = locked.await.map_err(|error| error.to_string())?;
    Ok(locked.map_err(|error| error.to_string())?)
}
